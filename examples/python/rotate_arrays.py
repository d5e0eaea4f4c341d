# Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
"""Rotates NumPy arrays, and torch tensors where torch is there; checks a gradient; reads a config; draws wavelengths
where matplotlib is there.

    ROPEWALK_LIBRARY=build/libropewalk.so python3 examples/python/rotate_arrays.py [config.json] [wavelengths.png]
"""

import sys
import time

import numpy as np

import ropewalk as rw

CONFIG = """{"model_type": "qwen2", "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
 "num_hidden_layers": 28, "max_position_embeddings": 32768, "rope_theta": 1000000.0,
 "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}"""


def reference(x, omega, positions):
    """Half-split rotation in f64."""
    angle = positions[:, None, None] * omega
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = np.split(x.astype(np.float64), 2, axis=-1)
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def main(arguments):
    print(f"unit {rw.unit()} of {', '.join(rw.units())}")
    rng = np.random.default_rng(0)

    # A view of packed [q | k | v] rows: rotated where it stands, v beside it untouched.
    spectrum = rw.Spectrum(rotary_dim=128, base=500000.0)
    positions = np.array([0, 7, 100_000, 1_000_000])
    packed = rng.standard_normal((1, 4, 8 + 2 + 2, 128)).astype(np.float32)
    q, k, v = packed[:, :, :8], packed[:, :, 8:10], packed[:, :, 10:]
    wanted, kept = reference(q[0], spectrum.frequencies(), positions), v.copy()
    rw.rotate(q, spectrum, k, positions=positions)
    error = np.abs(q[0] - wanted).max()
    print(f"f32 heads in packed rows, positions up to 10^6: largest error {error:.1e}, values untouched: "
          f"{np.array_equal(v, kept)}")
    assert error < 2e-6 and np.array_equal(v, kept)

    # The gradient of a loss through the rotation, against differences.
    table = rw.Table(spectrum, positions=positions, dtype="float64")
    x, weight = rng.standard_normal((2, 4, 3, 128)), rng.standard_normal((2, 4, 3, 128))
    gradient = rw.rotate(weight.copy(), table, direction="gradient")
    step = np.zeros_like(x)
    step[1, 2, 0, 5] = 1e-3
    loss = [np.sum(weight * rw.rotate(x + sign * step, table)) for sign in (1, -1)]
    difference = abs((loss[0] - loss[1]) / 2e-3 - gradient[1, 2, 0, 5])
    print(f"gradient against differences: {difference:.1e}")
    assert difference < 1e-8

    # What a call costs from Python: prepared once, then called.
    x = np.zeros((1, 1, 1, 128), np.float32)
    call = rw.Rotation(x, rw.Table(spectrum, rows=1))
    best = min(elapsed(call) for _ in range(50))
    print(f"a prepared call of one head: {best * 1e9:.0f} ns")

    if rw._torch is not None:
        import torch

        y = torch.randn(2, 3, 4, 128, dtype=torch.float64, requires_grad=True)
        options = {"order": "bhsd"}
        good = torch.autograd.gradcheck(lambda t: rw.Rotate.apply(t, table, options), y)
        half = torch.ones(1, 4, 2, 128, dtype=torch.bfloat16)
        rw.rotate(half, spectrum, positions=positions)
        print(f"torch {torch.__version__}: gradcheck {good}, bfloat16 in place, |pair| "
              f"{float((half[0, 3, 0, 0] ** 2 + half[0, 3, 0, 64] ** 2) ** 0.5):.3f}")
    else:
        print("torch: skipped, not installed")

    config = arguments[0] if arguments else CONFIG
    try:
        model = rw.Model.from_config(config)
    except rw.Error as refusal:
        if "nlohmann-json" not in str(refusal):
            raise
        print(f"configs: skipped, {refusal}")
        return
    layer = model.layer(0)
    omega = model.spectrum(0, max(layer["max_context"], 1)).frequencies()
    print(model.describe(0).rstrip())
    picture = arguments[1] if len(arguments) > 1 else None
    try:
        import matplotlib
    except ImportError:
        print("matplotlib: skipped, not installed")
        return
    if picture is not None:
        matplotlib.use("Agg")
        from matplotlib import pyplot

        pyplot.semilogy(2 * np.pi / omega)
        pyplot.xlabel("pair")
        pyplot.ylabel("wavelength in tokens")
        pyplot.axhline(max(layer["original_context"], 1), linestyle=":")
        pyplot.savefig(picture)
        print(f"wavelengths drawn to {picture}")


def elapsed(call, times=2000):
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


if __name__ == "__main__":
    main(sys.argv[1:])
