# Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
"""The Python binding: what it computes of arrays as they stand, and what it says of arrays it cannot rotate."""

import gc
import inspect
import time
import unittest
import unittest.mock

import numpy as np

import ropewalk as rw


def reference(x, omega, positions, layout="half_split", sign=1.0):
    """[batches, tokens, heads, channels] in f64."""
    angle = sign * np.asarray(positions, np.float64)[..., :, None, None] * omega
    cos, sin = np.cos(angle), np.sin(angle)
    out = np.array(x, np.float64)
    half = omega.size
    first = slice(0, 2 * half, 2) if layout == "interleaved" else slice(0, half)
    second = slice(1, 2 * half, 2) if layout == "interleaved" else slice(half, 2 * half)
    a, b = np.array(out[..., first]), np.array(out[..., second])
    out[..., first], out[..., second] = a * cos - b * sin, a * sin + b * cos
    return out


class Numbers(unittest.TestCase):
    def setUp(self):
        self.rng = np.random.default_rng(1)
        self.spectrum = rw.Spectrum(rotary_dim=64, base=10000.0)
        self.omega = self.spectrum.frequencies()

    def data(self, *shape, dtype=np.float32):
        return self.rng.standard_normal(shape).astype(dtype)

    def test_frequencies(self):
        np.testing.assert_allclose(self.omega, 10000.0 ** (-np.arange(32) / 32), rtol=1e-14)
        linear = rw.Spectrum(64, scaling="linear", factor=4.0)
        np.testing.assert_allclose(linear.frequencies(), self.omega / 4, rtol=1e-14)
        given = rw.Spectrum(frequencies=[1.0, 0.5, 0.25])
        np.testing.assert_allclose(given.frequencies(), [1.0, 0.5, 0.25], rtol=1e-14)
        self.assertAlmostEqual(rw.Spectrum(64, scaling="yarn", factor=4.0, original_context=4096.0).magnitude,
                               0.1 * np.log(4) + 1, places=12)

    def test_types_layouts_and_units(self):
        tolerances = {np.float64: 1e-14, np.float32: 2e-6, np.float16: 4e-3}
        positions = np.array([3, 1, 4, 1, 5])
        chosen = rw.unit()
        for unit in rw.units():
            rw.use_unit(unit)
            for dtype, tolerance in tolerances.items():
                table = rw.Table(self.spectrum, rows=60, dtype="float64" if dtype is np.float64 else "float32")
                for layout in ("half_split", "interleaved"):
                    x = self.data(2, 5, 3, 64, dtype=dtype)
                    wanted = reference(x, self.omega, positions, layout)
                    for rows in (table, self.spectrum):
                        y = x.copy()
                        self.assertIs(rw.rotate(y, rows, positions=positions, layout=layout), y)
                        np.testing.assert_allclose(y.astype(np.float64), wanted, atol=tolerance, rtol=0)
        rw.use_unit(chosen)

    def test_bf16_in_words(self):
        exact = self.data(4, 2, 64)
        words = (exact.view(np.uint32) >> 16).astype(np.uint16)
        before = (words.astype(np.uint32) << 16).view(np.float32)
        wanted = reference(before[None], self.omega, np.arange(4))
        rw.rotate(words, self.spectrum, positions=np.arange(4), dtype="bf16")
        np.testing.assert_allclose((words.astype(np.uint32) << 16).view(np.float32), wanted[0], atol=2e-2, rtol=0)

    def test_no_copy_and_strides_as_they_stand(self):
        packed = self.data(2, 5, 3, 64 + 7)
        wanted = reference(packed[:, ::2, 1:, 4:68], self.omega, [5, 6, 7])
        before = packed.copy()
        rw.rotate(packed[:, ::2, 1:, 4:68], self.spectrum, positions=[5, 6, 7])
        np.testing.assert_allclose(packed[:, ::2, 1:, 4:68], wanted, atol=2e-6, rtol=0)
        packed[:, ::2, 1:, 4:68] = before[:, ::2, 1:, 4:68]
        np.testing.assert_array_equal(packed, before)
        backwards = self.data(5, 2, 64)
        wanted = reference(backwards[None, ::-1], self.omega, range(5))
        rw.rotate(backwards[::-1], self.spectrum, positions=np.arange(5))
        np.testing.assert_allclose(backwards[::-1], wanted[0], atol=2e-6, rtol=0)

    def test_heads_before_tokens(self):
        x = self.data(2, 3, 5, 64)
        wanted = reference(x.transpose(0, 2, 1, 3), self.omega, range(5)).transpose(0, 2, 1, 3)
        rw.rotate(x, self.spectrum, positions=np.arange(5), order="bhsd")
        np.testing.assert_allclose(x, wanted, atol=2e-6, rtol=0)

    def test_positions_of_every_batch(self):
        x = self.data(2, 3, 1, 64)
        positions = np.array([[0, 1, 2], [70, 71, 72]])
        wanted = reference(x, self.omega, positions)
        table = rw.Table(self.spectrum, rows=80)
        y = x.copy()
        rw.rotate(y, table, positions=positions.astype(np.int32))
        rw.rotate(x, self.spectrum, positions=positions.astype(np.float32))
        np.testing.assert_allclose(x, wanted, atol=2e-6, rtol=0)
        np.testing.assert_allclose(y, wanted, atol=2e-6, rtol=0)

    def test_q_and_k_there_and_back(self):
        q, k = self.data(1, 4, 6, 64), self.data(1, 4, 2, 64)
        a, b = q.copy(), k.copy()
        table = rw.Table(self.spectrum, rows=4)
        rw.rotate(a, table, b)
        np.testing.assert_allclose(b, reference(k, self.omega, range(4)), atol=2e-6, rtol=0)
        rw.rotate(a, table, b, direction="unrotate")
        np.testing.assert_allclose(a, q, atol=1e-6, rtol=0)
        np.testing.assert_allclose(b, k, atol=1e-6, rtol=0)

    def test_a_prepared_call_keeps_what_it_needs(self):
        x = self.data(1, 4, 2, 64)
        wanted = reference(x, self.omega, [2, 3, 4, 5])
        call = rw.Rotation(x, rw.Table(rw.Spectrum(64), rows=9), positions=np.array([2, 3, 4, 5]))
        gc.collect()
        junk = [np.full(9 * 32, 7.0, np.float32) for _ in range(50)]
        call()
        np.testing.assert_allclose(x, wanted, atol=2e-6, rtol=0)
        self.assertEqual(len(junk), 50)

    def test_cost_of_a_prepared_call(self):
        x = np.zeros((1, 1, 1, 64), np.float32)
        call = rw.Rotation(x, rw.Table(self.spectrum, rows=1))
        rounds = []
        for _ in range(30):
            start = time.perf_counter()
            for _ in range(1000):
                call()
            rounds.append((time.perf_counter() - start) / 1000)
        print(f"a prepared call of one head: {min(rounds) * 1e9:.0f} ns")
        self.assertLess(min(rounds), 3e-6)

    def test_models(self):
        try:
            model = rw.Model.from_config('{"model_type": "llama", "hidden_size": 128, "num_attention_heads": 2, '
                                         '"num_hidden_layers": 2, "max_position_embeddings": 64}')
        except rw.Error as refusal:
            if "nlohmann-json" in str(refusal):
                self.skipTest(str(refusal))
            raise
        self.assertEqual(len(model), 2)
        self.assertEqual(model.layer(1)["rotary_dim"], 64)
        np.testing.assert_allclose(model.spectrum(0, 64).frequencies(), self.omega, rtol=1e-14)
        self.assertIn("half_split", model.describe(0))
        with self.assertRaisesRegex(rw.Error, "layer"):
            model.layer(2)
        with self.assertRaisesRegex(rw.Error, "rope_theta"):
            rw.Model.from_config('{"model_type": "llama", "hidden_size": 128, "num_attention_heads": 2, '
                                 '"num_hidden_layers": 2, "max_position_embeddings": 64, "rope_theta": "x"}')


class Refusals(unittest.TestCase):
    def setUp(self):
        self.spectrum = rw.Spectrum(64)
        self.table = rw.Table(self.spectrum, rows=4)
        self.good = np.ones((1, 4, 2, 64), np.float32)

    def refused(self, words, *arguments, **options):
        before = self.good.copy()
        with self.assertRaisesRegex(rw.Error, words):
            rw.rotate(*arguments, **options)
        np.testing.assert_array_equal(self.good, before)

    def test_arrays(self):
        self.refused("q must be of float64.*int32", np.ones((1, 4, 2, 64), np.int32), self.table)
        self.refused("k must be of float64.*complex64", self.good, self.table, np.ones((1, 4, 2, 64), np.complex64))
        self.refused("q must be a NumPy array", [[1.0] * 64], self.table)
        locked = self.good.copy()
        locked.flags.writeable = False
        self.refused("q must be writable", locked, self.table)
        self.refused("k must be writable", self.good, self.table, locked)
        self.refused("q must be .tokens, heads, channels", np.ones((4, 64), np.float32), self.table)
        self.refused("q must have channels, is .1, 1, 1, 0.", np.ones((1, 1, 0), np.float32), self.table,
                     first_channel=0)
        self.refused("q must have adjacent channels", np.asfortranarray(np.ones((1, 4, 2, 64), np.float32)), self.table)
        self.refused("k must have adjacent channels", self.good, self.table, np.ones((1, 4, 2, 128), np.float32)[..., ::2])
        self.refused("q must be of the machine's byte order", np.ones((1, 4, 2, 64), ">f4"), self.table)
        self.refused("k must have the batches, tokens", self.good, self.table, np.ones((1, 3, 2, 64), np.float32))

    def test_shapes(self):
        self.refused("channels must be twice|first_channel", np.ones((1, 4, 2, 62), np.float32), self.table)
        self.refused("table_rows", np.ones((1, 5, 2, 64), np.float32), self.table)
        self.refused("table must be of float64", np.ones((1, 4, 2, 64)), self.table)
        overlapping = np.lib.stride_tricks.as_strided(np.ones(1000, np.float32), (1, 4, 2, 64), (0, 512, 128, 4))
        self.refused("stride", overlapping, self.table)

    def test_a_part_of_each_head_must_be_asked_for(self):
        omega = self.spectrum.frequencies()
        x = np.random.default_rng(2).standard_normal((1, 4, 2, 128)).astype(np.float32)
        before = x.copy()
        for rows, positions in ((self.table, None), (self.spectrum, np.arange(4))):
            with self.assertRaisesRegex(rw.Error, "channels must be twice the pairs.* 64, are 128.*first_channel"):
                rw.rotate(x, rows, positions=positions)
            np.testing.assert_array_equal(x, before)
        for first in (0, 32, 64):
            y = x.copy()
            rw.rotate(y, self.table, first_channel=first)
            wanted = x.astype(np.float64)
            wanted[..., first:first + 64] = reference(x[..., first:first + 64], omega, range(4))
            np.testing.assert_allclose(y, wanted, atol=2e-6, rtol=0)
        self.refused("first_channel . 2 . pairs must be at most the channels", x, self.table, first_channel=65)
        with self.assertRaisesRegex(TypeError, "first_channel must be an integer, is str"):
            rw.rotate(x, self.table, first_channel="0")

    def test_options(self):
        self.refused("layout must be one of", self.good, self.table, layout="diagonal")
        self.refused("direction must be one of", self.good, self.table, direction="up")
        self.refused("order must be", self.good, self.table, order="sbhd")
        self.refused("positions must be .4.", self.good, self.table, positions=[1, 2, 3])
        self.refused("positions must be integers", self.good, self.table, positions=[0.5, 1, 2, 3])
        self.refused("positions must be given", self.good, self.spectrum)
        self.refused("rows must be a Table", self.good, np.ones(4))
        self.refused("group", self.good, self.table, layout="blocked", group=7)

    def test_a_row_that_is_not_there_leaves_every_token(self):
        for missing in ([0, 1, 2, 4], [-1, 1, 70000, 2]):
            for kind in (np.int32, np.int64):
                x, k = self.good.copy(), self.good.copy()
                words = f"at most the last row of the table: wanted 3, got {max(missing)}"
                with self.assertRaisesRegex(rw.Error, words):
                    rw.rotate(x, self.table, k, positions=np.array(missing, kind))
                np.testing.assert_array_equal(x, self.good)
                np.testing.assert_array_equal(k, self.good)

    def test_a_negative_position_is_untouched_by_a_table_and_rotated_by_a_spectrum(self):
        positions = np.array([0, -1, 2, -3])
        x, y = self.good.copy(), self.good.copy()
        rw.rotate(x, self.table, positions=positions)
        rw.rotate(y, self.spectrum, positions=positions)
        wanted = reference(self.good, self.spectrum.frequencies(), positions)
        np.testing.assert_allclose(y, wanted, atol=2e-6, rtol=0)
        np.testing.assert_array_equal(x[0, [1, 3]], self.good[0, [1, 3]])
        np.testing.assert_allclose(x[0, [0, 2]], wanted[0, [0, 2]], atol=2e-6, rtol=0)

    def test_parameters_that_a_rule_does_not_read(self):
        for words, options in (
                ("factor must be 1.0, which scaling 'none' does not read, got 8.0; .*linear, ntk, llama3, yarn",
                 {"factor": 8.0}),
                ("original_context must be 0.0.*'linear'", {"scaling": "linear", "original_context": 4096.0}),
                ("beta_fast must be 32.0.*'llama3' .*: yarn",
                 {"scaling": "llama3", "factor": 8.0, "original_context": 8192.0, "beta_fast": 16.0}),
                ("low_freq_factor.*'yarn'",
                 {"scaling": "yarn", "factor": 4.0, "original_context": 4096.0, "low_freq_factor": 2.0}),
                ("attention_factor.*'ntk'", {"scaling": "ntk", "factor": 2.0, "attention_factor": 1.0}),
                ("base must be 10000.0, which given frequencies do not read",
                 {"frequencies": np.ones(64), "base": 500000.0}),
                ("factor.*given frequencies", {"frequencies": np.ones(64), "factor": 2.0}),
                ("scaling must not be given with frequencies", {"frequencies": np.ones(64), "scaling": "yarn"}),
                ("rotary_dim must be twice the number of frequencies, 64, got 128", {"frequencies": np.ones(32)})):
            with self.assertRaisesRegex(ValueError, words):
                rw.Spectrum(128, **options)
        for options in ({"factor": 1.0}, {"scaling": "linear", "factor": 8.0, "beta_fast": 32.0},
                        {"scaling": "yarn", "factor": 4.0, "original_context": 4096.0, "attention_factor": 1.5},
                        {"frequencies": np.ones(64), "magnitude": 2.0},
                        {"frequencies": np.ones(64), "scaling": "given"}):
            self.assertEqual(rw.Spectrum(128, **options).pairs, 64)

    def test_what_each_rule_reads_is_what_the_library_reads(self):
        other = {"base": 500000.0, "factor": 6.0, "original_context": 4096.0, "low_freq_factor": 1.5,
                 "high_freq_factor": 5.0, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5}
        needed = {"none": {}, "linear": {"factor": 8.0}, "ntk": {"factor": 8.0}, "given": {"frequencies": np.ones(64)},
                  "llama3": {"factor": 8.0, "original_context": 8192.0},
                  "yarn": {"factor": 8.0, "original_context": 8192.0}}
        self.assertEqual(set(needed), set(rw._READ))
        self.assertEqual(set(other), set(rw._PARAMETERS))
        claimed = {rule: set(names) for rule, names in rw._READ.items()}

        def made(rule, options):
            spectrum = rw.Spectrum(128, scaling=rule, **options)
            return [*spectrum.frequencies(), spectrum.magnitude]

        with unittest.mock.patch.dict(rw._READ, {rule: tuple(other) for rule in rw._READ}):
            for rule, options in needed.items():
                plain = made(rule, options)
                read = {name for name, value in other.items() if made(rule, {**options, name: value}) != plain}
                self.assertEqual(read, claimed[rule], rule)

    def test_arguments_of_another_type_are_named(self):
        for words, make in (("spectrum must be a Spectrum, is int", lambda: rw.Table(4096, self.spectrum)),
                            ("rows must be an integer, is Spectrum", lambda: rw.Table(self.spectrum, self.spectrum)),
                            ("rotary_dim must be an integer, is float", lambda: rw.Spectrum(64.0))):
            with self.assertRaisesRegex(TypeError, words):
                make()

    def test_a_library_that_is_not_there(self):
        kept = rw._lib
        with self.assertRaisesRegex(OSError, "/nowhere/libropewalk.so could not be loaded.*set .*ROPEWALK_LIBRARY"):
            rw.load("/nowhere/libropewalk.so")
        self.assertIs(rw._lib, kept)

    def test_the_docstring_of_a_prepared_call(self):
        parameters = list(inspect.signature(rw.Rotation).parameters)
        self.assertIn(f"Rotation({', '.join(parameters[:3])}, positions", rw.Rotation.__doc__)

    def test_spectra_and_tables(self):
        for words, make in (("rotary_dim", lambda: rw.Spectrum(63)), ("base", lambda: rw.Spectrum(64, base=-1.0)),
                            ("scaling", lambda: rw.Spectrum(64, scaling="magic")),
                            ("pair_factors must hold 32", lambda: rw.Spectrum(64, pair_factors=[1.0])),
                            ("rows", lambda: rw.Table(self.spectrum, rows=-1)),
                            ("dtype", lambda: rw.Table(self.spectrum, rows=1, dtype="float16")),
                            ("positions must be finite", lambda: rw.Table(self.spectrum, positions=[np.nan]))):
            with self.assertRaisesRegex(rw.Error, words):
                make()


@unittest.skipIf(rw._torch is None, "torch is not installed (Debian: python3-torch)")
class Torch(unittest.TestCase):
    def test_tensors_and_gradient(self):
        import torch

        spectrum = rw.Spectrum(8)
        table = rw.Table(spectrum, rows=3, dtype="float64")
        x = torch.randn(2, 3, 2, 8, dtype=torch.float64)
        wanted = reference(x.numpy(), spectrum.frequencies(), range(3))
        np.testing.assert_allclose(rw.Rotate.apply(x, table, {}).numpy(), wanted, atol=1e-14)
        x.requires_grad_()
        self.assertTrue(torch.autograd.gradcheck(lambda t: rw.Rotate.apply(t, table, {}), x))
        half = torch.ones(1, 3, 2, 8, dtype=torch.bfloat16)
        rw.rotate(half, spectrum, positions=torch.arange(3))
        self.assertAlmostEqual(float(half[0, 1, 0, 0]), np.cos(1) - np.sin(1), places=2)
        with self.assertRaisesRegex(rw.Error, "q must be of"):
            rw.rotate(torch.ones(1, 3, 2, 8, dtype=torch.int32), spectrum, positions=torch.arange(3))
        learned = torch.ones(1, 3, 2, 8, requires_grad=True)
        with self.assertRaisesRegex(rw.Error, "q must not require a gradient.*Rotate.apply"):
            rw.rotate(learned, spectrum, positions=torch.arange(3))
        with torch.no_grad():
            rw.rotate(learned, spectrum, positions=torch.arange(3))
