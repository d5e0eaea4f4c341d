# Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
"""Ropewalk for NumPy arrays and torch CPU tensors, over the shared library `ropewalk_shared`.

Nothing is copied: a call is given the address and the strides of the array as it stands. An array that cannot be
rotated in place raises an error that names it and says what is wrong with it. bf16 data are arrays of
ml_dtypes.bfloat16, or of numpy.uint16 with dtype="bf16".

    import numpy as np, ropewalk as rw
    spectrum = rw.Spectrum(rotary_dim=128, base=500000.0)
    table = rw.Table(spectrum, rows=4096)
    rw.rotate(q, table, positions=positions)        # q [batches, tokens, heads, channels]
"""

import ctypes as _c
import os as _os
from functools import cached_property as _cached_property
from operator import index as _index

import numpy as _np

__all__ = ["Error", "Model", "Rotation", "Spectrum", "Table", "load", "rotate", "unit", "units", "use_unit"]

_size, _diff, _i32, _f64, _ptr = _c.c_size_t, _c.c_ssize_t, _c.c_int32, _c.c_double, _c.c_void_p


class Error(ValueError):
    """What the library refused, in its words."""


def _struct(name, fields):
    return type(name, (_c.Structure,), {"_fields_": fields})


_Tensor = _struct("_Tensor", [("data", _ptr), ("heads", _diff), ("batch_stride", _diff), ("token_stride", _diff),
                              ("head_stride", _diff)])
_Rows = _struct("_Rows", [("cos", _ptr), ("sin", _ptr), ("table_rows", _diff), ("table_heads", _diff),
                          ("pairs", _diff), ("row_stride", _diff), ("head_stride", _diff), ("row_of_token", _ptr),
                          ("row_of_token_64", _ptr), ("row_count", _diff), ("first_token", _diff),
                          ("batch_stride", _diff), ("spectrum", _ptr), ("positions", _ptr), ("position_type", _i32),
                          ("axes_first", _i32), ("dtype", _i32)])
_RotateCall = _struct("_RotateCall", [("size", _size), ("version", _i32), ("dtype", _i32), ("k_dtype", _i32),
                                      ("layout", _i32), ("write_layout", _i32), ("direction", _i32),
                                      ("group", _diff), ("write_group", _diff), ("batches", _diff),
                                      ("tokens", _diff), ("channels", _diff), ("first_channel", _diff),
                                      ("q", _Tensor), ("k", _Tensor), ("rows", _Rows), ("parts", _diff),
                                      ("part", _diff)])
_SpectrumOptions = _struct("_SpectrumOptions", [("size", _size), ("version", _i32), ("scaling", _i32),
                                                ("rotary_dim", _diff)] +
                           [(n, _f64) for n in ("base", "factor", "original_context", "low_freq_factor",
                                                "high_freq_factor", "beta_fast", "beta_slow", "attention_factor")] +
                           [("frequencies", _ptr), ("pair_factors", _ptr), ("magnitude", _f64), ("axes", _diff),
                            ("axis_of_pair", _ptr)])
_TableOptions = _struct("_TableOptions", [("size", _size), ("version", _i32), ("dtype", _i32), ("spectrum", _ptr),
                                          ("rows", _diff), ("positions", _ptr), ("for_shift", _i32),
                                          ("reserved", _i32), ("from_", _ptr), ("from_positions", _ptr)])
_Layer = _struct("_Layer", [("size", _size), ("version", _i32), ("rotates", _i32), ("layout", _i32),
                            ("write_layout", _i32), ("depends_on_length", _i32), ("kind", _i32), ("group", _diff),
                            ("write_group", _diff), ("head_dim", _diff), ("first_channel", _diff),
                            ("rotary_dim", _diff), ("logit_scale", _f64), ("original_context", _c.c_int64),
                            ("max_context", _c.c_int64)])
_Info = _struct("_Info", [("size", _size), ("version", _i32), ("pairs", _diff), ("axes", _diff), ("heads", _diff), ("magnitude", _f64)])

_VERSION = 1
_LAYOUTS = {"half_split": 1, "interleaved": 2, "blocked": 3}
_DIRECTIONS = {"rotate": 0, "unrotate": 1, "gradient": 2}
_SCALINGS = {"none": 0, "linear": 1, "llama3": 2, "yarn": 3, "given": 4, "ntk": 5}
_DTYPES = {"float64": 1, "float32": 2, "float16": 3, "bfloat16": 4}
_POSITIONS = {"int32": 1, "int64": 2, "float32": 3, "float64": 4}

_lib = None


def load(path=None):
    """Loads the shared library: `path`, or what the environment variable ROPEWALK_LIBRARY names, or libropewalk.so
    where the system finds it. Called by itself when first needed."""
    global _lib
    name = path or _os.environ.get("ROPEWALK_LIBRARY") or "libropewalk.so"
    try:
        lib = _c.CDLL(name)
    except OSError as reason:
        raise OSError(f"the library {name} could not be loaded ({reason}): set the environment variable "
                      "ROPEWALK_LIBRARY to the path of libropewalk.so, which CMake's target ropewalk_shared "
                      "builds") from None
    text = [_c.c_char_p, _size]

    def declare(name, result, *arguments):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, list(arguments)

    declare("ropewalk_rotate", _c.c_int, _ptr)
    declare("ropewalk_last_misfit", _size, *text)
    declare("ropewalk_status_text", _c.c_char_p, _c.c_int)
    declare("ropewalk_make_spectrum", _c.c_int, _ptr, _c.POINTER(_ptr), *text)
    declare("ropewalk_free_spectrum", None, _ptr)
    declare("ropewalk_get_spectrum_info", _c.c_int, _ptr, _ptr)
    declare("ropewalk_get_frequencies", _diff, _ptr, _ptr, _diff)
    declare("ropewalk_make_table", _c.c_int, _ptr, _c.POINTER(_ptr), *text)
    declare("ropewalk_free_table", None, _ptr)
    declare("ropewalk_table_rows", _Rows, _ptr)
    declare("ropewalk_read_config", _c.c_int, _c.c_char_p, _size, _c.c_int, _c.POINTER(_ptr), *text)
    declare("ropewalk_read_gguf", _c.c_int, _c.c_char_p, _size, _c.c_int, _c.POINTER(_ptr), *text)
    declare("ropewalk_free_model", None, _ptr)
    declare("ropewalk_layers", _diff, _ptr)
    declare("ropewalk_get_layer", _c.c_int, _ptr, _diff, _ptr)
    declare("ropewalk_describe_layer", _c.c_int, _ptr, _diff, _c.c_char_p, _size, _c.POINTER(_size))
    declare("ropewalk_make_layer_spectrum", _c.c_int, _ptr, _diff, _c.c_int64, _c.POINTER(_ptr), *text)
    declare("ropewalk_unit", _c.c_char_p)
    declare("ropewalk_available_unit", _c.c_char_p, _diff)
    declare("ropewalk_use_unit", _c.c_int, _c.c_char_p)
    _lib = lib
    return lib


def _library():
    return _lib if _lib is not None else load()


def _make(function, *arguments):
    handle, text = _ptr(), _c.create_string_buffer(512)
    if function(*arguments, _c.byref(handle), text, len(text)) != 0:
        raise Error(text.value.decode())
    return handle.value


def _refused(status):
    text = _c.create_string_buffer(256)
    if status == 1 and _library().ropewalk_last_misfit(text, len(text)):
        return Error(text.value.decode())
    return Error(_library().ropewalk_status_text(status).decode())


def unit():
    """The instruction set in use, for example avx2_fma_f16c."""
    return _library().ropewalk_unit().decode()


def units():
    """All that were built and run here, widest first."""
    names = iter(range(16))
    found = (_library().ropewalk_available_unit(i) for i in names)
    return [name.decode() for name in found if name is not None]


def use_unit(name):
    """Makes every later call use the named unit."""
    if _library().ropewalk_use_unit(name.encode()) != 0:
        raise Error(f"unit must be one of {units()}, got {name!r}")


def _numbers(name, array, dtype, count=None):
    """A contiguous array to be read, of `count` numbers; kept by whoever keeps the address."""
    array = _np.ascontiguousarray(array, dtype)
    if count is not None and array.size != count:
        raise Error(f"{name} must hold {count} numbers, got {array.size}")
    return array


def _whole(name, number):
    """An integer, or a TypeError that names the argument."""
    try:
        return _index(number)
    except TypeError:
        raise TypeError(f"{name} must be an integer, is {type(number).__name__}") from None


# The parameters that only some rules read, with their defaults, and those that each rule reads.
_PARAMETERS = {"base": 10000.0, "factor": 1.0, "original_context": 0.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 0.0}
_READ = {"none": ("base",), "linear": ("base", "factor"), "ntk": ("base", "factor"), "given": (),
         "llama3": ("base", "factor", "original_context", "low_freq_factor", "high_freq_factor"),
         "yarn": ("base", "factor", "original_context", "beta_fast", "beta_slow", "attention_factor")}


class Spectrum:
    """How fast every pair rotates. scaling: none, linear, llama3, yarn or ntk, with the fields of
    ropewalk_spectrum_options; or frequencies=[...] in radians a position. A parameter that the rule does not read must
    keep its default."""

    def __init__(self, rotary_dim=None, *, scaling="none", frequencies=None, pair_factors=None, axis_of_pair=None,
                 axes=1, base=10000.0, factor=1.0, original_context=0.0, low_freq_factor=1.0, high_freq_factor=4.0,
                 beta_fast=32.0, beta_slow=1.0, attention_factor=0.0, magnitude=1.0, _handle=None):
        self._handle = None
        if _handle is not None:
            self._handle = _handle
            return
        if scaling not in _SCALINGS:
            raise Error(f"scaling must be one of {list(_SCALINGS)}, got {scaling!r}")
        if frequencies is not None:
            frequencies = _numbers("frequencies", frequencies, _np.float64)
            if scaling not in ("none", "given"):
                raise Error(f"scaling must not be given with frequencies, which it would not scale, got {scaling!r}")
            if rotary_dim is not None and _whole("rotary_dim", rotary_dim) != 2 * frequencies.size:
                raise Error(f"rotary_dim must be twice the number of frequencies, {2 * frequencies.size}, got "
                            f"{rotary_dim}")
            scaling, rotary_dim = "given", 2 * frequencies.size
        if rotary_dim is None:
            raise Error("rotary_dim or frequencies must be given")
        rotary_dim = _whole("rotary_dim", rotary_dim)
        given = (base, factor, original_context, low_freq_factor, high_freq_factor, beta_fast, beta_slow,
                 attention_factor)
        for (name, default), value in zip(_PARAMETERS.items(), given):
            if value != default and name not in _READ[scaling]:
                readers = ", ".join(rule for rule in _READ if name in _READ[rule])
                what = "given frequencies do" if scaling == "given" else f"scaling {scaling!r} does"
                raise Error(f"{name} must be {default}, which {what} not read, got {value!r}; scalings that read it: "
                            f"{readers}")
        kept = []

        def address(name, array, dtype):
            if array is None:
                return None
            kept.append(_numbers(name, array, dtype, rotary_dim // 2))
            return kept[-1].ctypes.data

        options = _SpectrumOptions(_c.sizeof(_SpectrumOptions), _VERSION, _SCALINGS[scaling], rotary_dim, base, factor,
                                   original_context, low_freq_factor, high_freq_factor, beta_fast, beta_slow,
                                   attention_factor, address("frequencies", frequencies, _np.float64),
                                   address("pair_factors", pair_factors, _np.float64), magnitude, axes,
                                   address("axis_of_pair", axis_of_pair, _np.int32))
        self._handle = _make(_library().ropewalk_make_spectrum, _c.byref(options))

    def __del__(self):
        if getattr(self, "_handle", None) and _lib is not None:
            _lib.ropewalk_free_spectrum(self._handle)
            self._handle = None

    @_cached_property
    def _info(self):
        info = _Info(_c.sizeof(_Info), _VERSION)
        status = _library().ropewalk_get_spectrum_info(self._handle, _c.byref(info))
        if status != 0:
            raise _refused(status)
        return info

    @property
    def pairs(self):
        return self._info.pairs

    @property
    def axes(self):
        return self._info.axes

    @property
    def magnitude(self):
        return self._info.magnitude

    def frequencies(self):
        """[pairs] in radians a position, of the first head."""
        out = _np.zeros(self.pairs)
        _library().ropewalk_get_frequencies(self._handle, out.ctypes.data, out.size)
        return out


class Table:
    """cos and sin of positions 0 to rows - 1, or of `positions` [rows] or [rows, axes]."""

    def __init__(self, spectrum, rows=None, *, positions=None, dtype="float32", for_shift=False):
        self._handle = None
        if not isinstance(spectrum, Spectrum):
            raise TypeError(f"spectrum must be a Spectrum, is {type(spectrum).__name__}: Table(spectrum, rows)")
        where = None
        if positions is not None:
            where = _numbers("positions", positions, _np.float64)
            if where.size % spectrum.axes != 0:
                raise Error(f"positions must be [rows, {spectrum.axes}], got {where.shape}")
            rows = where.size // spectrum.axes
        if rows is None:
            raise Error("rows or positions must be given")
        rows = _whole("rows", rows)
        options = _TableOptions(_c.sizeof(_TableOptions), _VERSION, _DTYPES.get(str(dtype), 0), spectrum._handle, rows,
                                where.ctypes.data if where is not None else None, int(for_shift), 0, None, None)
        self._handle = _make(_library().ropewalk_make_table, _c.byref(options))
        self._rows = _library().ropewalk_table_rows(self._handle)
        self.rows, self.dtype, self.magnitude = rows, str(dtype), spectrum.magnitude

    def __del__(self):
        if getattr(self, "_handle", None) and _lib is not None:
            _lib.ropewalk_free_table(self._handle)
            self._handle = None


class Model:
    """What the layers of a model do: Model.from_config(path or text), Model.from_gguf(path)."""

    def __init__(self, handle):
        self._handle = handle

    @classmethod
    def from_config(cls, config, *, strict=True):
        if not isinstance(config, bytes):
            config = config.encode() if str(config).lstrip().startswith("{") else open(config, "rb").read()
        return cls(_make(_library().ropewalk_read_config, config, len(config), 0 if strict else 1))

    @classmethod
    def from_gguf(cls, path, *, strict=True):
        with open(path, "rb") as file:
            data = file.read()
        return cls(_make(_library().ropewalk_read_gguf, data, len(data), 0 if strict else 1))

    def __del__(self):
        if getattr(self, "_handle", None) and _lib is not None:
            _lib.ropewalk_free_model(self._handle)
            self._handle = None

    def __len__(self):
        return _library().ropewalk_layers(self._handle)

    def layer(self, number):
        """The fields of ropewalk_layer as a dictionary."""
        layer = _Layer(_c.sizeof(_Layer), _VERSION)
        status = _library().ropewalk_get_layer(self._handle, number, _c.byref(layer))
        if status != 0:
            raise _refused(status)
        out = {name: getattr(layer, name) for name, _ in _Layer._fields_[2:]}
        names = {number: name for name, number in _LAYOUTS.items()}
        out["layout"], out["write_layout"] = names[out["layout"]], names[out["write_layout"]]
        return out

    def describe(self, number):
        """A layer in words."""
        text = _c.create_string_buffer(1 << 16)
        if _library().ropewalk_describe_layer(self._handle, number, text, len(text), None) != 0:
            raise Error(text.value.decode())
        return text.value.decode()

    def spectrum(self, number, context_length):
        """The frequencies of a layer at a context length."""
        return Spectrum(_handle=_make(_library().ropewalk_make_layer_spectrum, self._handle, number, context_length))


_names = {}


def _name(dtype):
    """dtype.name, which NumPy puts together anew each time."""
    name = _names.get(dtype)
    if name is None:
        name = _names[dtype] = dtype.name
    return name


_byte = _c.c_char.from_buffer


def _address(x):
    """x.ctypes.data, in half the time where the array can be had as a buffer."""
    try:
        return _c.addressof(_byte(x))
    except (TypeError, ValueError, BufferError):
        return x.ctypes.data


def _view(name, x, dtype):
    """A tensor or an array as (address, shape, strides in elements, number of its type). Torch tensors are looked at
    through NumPy, which shares their memory."""
    if hasattr(x, "detach"):
        if x.device.type != "cpu":
            raise Error(f"{name} must be on the CPU, is on {x.device}")
        if x.requires_grad and _torch.is_grad_enabled():
            raise Error(f"{name} must not require a gradient, which a rotation in place would falsify: use "
                        "ropewalk.Rotate.apply, or torch.no_grad()")
        kind = str(x.dtype).rpartition(".")[2]
        shape, strides, address = tuple(x.shape), x.stride(), x.data_ptr()
        number = _DTYPES.get(kind)
    else:
        if not isinstance(x, _np.ndarray):
            raise Error(f"{name} must be a NumPy array or a torch tensor, is {type(x).__name__}")
        kind, flags, item = _name(x.dtype), x.flags, x.itemsize
        if not flags.writeable:
            raise Error(f"{name} must be writable, is read-only")
        if not x.dtype.isnative or not flags.aligned:
            raise Error(f"{name} must be of the machine's byte order and aligned")
        shape, strides = x.shape, tuple([s // item for s in x.strides])
        if any([s % item for s in x.strides]):
            raise Error(f"{name} must have strides of whole elements")
        address = _address(x)
        number = 4 if dtype == "bf16" and kind == "uint16" else _DTYPES.get(kind)
    if number is None or (dtype == "bf16" and number != 4):
        raise Error(f"{name} must be of float64, float32, float16 or bfloat16 (uint16 with dtype='bf16'), "
                    f"is of {kind}")
    if len(shape) == 3:
        shape, strides = (1,) + shape, (0,) + tuple(strides)
    if len(shape) != 4:
        raise Error(f"{name} must be [tokens, heads, channels] or [batches, tokens, heads, channels], is {shape}")
    if shape[3] == 0:  # which a call would take for twice the pairs
        raise Error(f"{name} must have channels, is {shape}")
    if strides[3] != 1 and shape[3] > 1:
        raise Error(f"{name} must have adjacent channels (C order within a head), their stride is {strides[3]}")
    return address, shape, strides, number


class Rotation:
    """One call, prepared: Rotation(q, rows, k, positions=...)() rotates the arrays it was made of, as often as it is
    called. Arguments as those of rotate(). It keeps arrays, table and positions alive. Python's part of a call is then
    one jump."""

    def __init__(self, q, rows, k=None, *, positions=None, layout="half_split", write_layout=None, direction="rotate",
                 group=0, first_channel=None, dtype=None, order="bshd"):
        address, shape, strides, number = _view("q", q, dtype)
        if order == "bhsd":  # [batches, heads, tokens, channels], as torch's attention has it
            shape, strides = (shape[0], shape[2], shape[1], shape[3]), (strides[0], strides[2], strides[1], strides[3])
        elif order != "bshd":
            raise Error(f"order must be bshd or bhsd, got {order!r}")
        for name, what, among in (("layout", layout, _LAYOUTS), ("direction", direction, _DIRECTIONS)):
            if what not in among:
                raise Error(f"{name} must be one of {list(among)}, got {what!r}")
        if write_layout is not None and write_layout not in _LAYOUTS:
            raise Error(f"write_layout must be one of {list(_LAYOUTS)}, got {write_layout!r}")
        self._kept = [q, k, rows]
        call = self._call = _RotateCall()
        call.size, call.version = _c.sizeof(_RotateCall), _VERSION
        call.dtype = call.k_dtype = number
        call.layout, call.direction = _LAYOUTS[layout], _DIRECTIONS[direction]
        call.write_layout = _LAYOUTS[write_layout] if write_layout else 0
        call.group = call.write_group = group
        call.batches, call.tokens, call.channels = shape[0], shape[1], shape[3]
        call.q = _Tensor(address, shape[2], strides[0], strides[1], strides[2])
        if k is not None:
            k_address, k_shape, k_strides, call.k_dtype = _view("k", k, dtype)
            if order == "bhsd":
                k_shape = (k_shape[0], k_shape[2], k_shape[1], k_shape[3])
                k_strides = (k_strides[0], k_strides[2], k_strides[1], k_strides[3])
            if k_shape[:2] != shape[:2] or k_shape[3] != shape[3]:
                raise Error(f"k must have the batches, tokens and channels of q, {shape}, has {k_shape}")
            call.k = _Tensor(k_address, k_shape[2], k_strides[0], k_strides[1], k_strides[2])
        call.rows = self._rows_of(rows, positions, shape[0], shape[1], number)
        if first_channel is not None:
            call.first_channel = _whole("first_channel", first_channel)
        elif shape[3] > 2 * call.rows.pairs:
            raise Error(f"channels must be twice the pairs of the rows, {2 * call.rows.pairs}, are {shape[3]}: where "
                        "only a part of each head is to rotate, say where it begins with first_channel=0, for example")
        call.parts = 1
        # Looked up once: a call through these is 1 us or less.
        self._function, self._address = _library().ropewalk_rotate, _c.addressof(call)

    def _rows_of(self, rows, positions, batches, tokens, number):
        if isinstance(rows, Table):
            out = _Rows.from_buffer_copy(rows._rows)
            wanted = "float64" if number == 1 else "float32"
            if rows.dtype != wanted:
                raise Error(f"table must be of {wanted} for these data, is of {rows.dtype}")
            if positions is None:
                out.batch_stride = -1  # every batch reads rows 0, 1, ...
                return out
            entries = self._positions("positions", positions, "iu")
            if entries.itemsize == 4:
                out.row_of_token = _address(entries)
            else:
                out.row_of_token_64 = _address(entries)
            count = 1
        elif isinstance(rows, Spectrum):
            if positions is None:
                raise Error("positions must be given with a spectrum")
            info = rows._info
            entries = self._positions("positions", positions, "iuf")
            out = _Rows(pairs=info.pairs, table_heads=info.heads, spectrum=rows._handle)
            out.positions, out.position_type = _address(entries), _POSITIONS[_name(entries.dtype)]
            count = info.axes
        else:
            raise Error(f"rows must be a Table or a Spectrum, is {type(rows).__name__}")
        if entries.size == tokens * count:
            out.batch_stride = -1
        elif entries.size != batches * tokens * count:
            raise Error(f"positions must be [{tokens}] or [{batches}, {tokens}]" +
                        (f" of {count} axes" if count > 1 else "") + f", are {entries.shape}")
        out.row_count = entries.size // count
        return out

    def _positions(self, name, positions, kinds):
        if hasattr(positions, "detach"):
            positions = positions.detach().cpu().numpy()
        entries = _np.ascontiguousarray(positions)
        if entries.dtype.kind not in kinds:
            raise Error(f"{name} must be {'integers' if kinds == 'iu' else 'numbers'}, are {entries.dtype}")
        if _name(entries.dtype) not in _POSITIONS:
            entries = entries.astype(_np.int64 if entries.dtype.kind in "iu" else _np.float64)
        self._kept.append(entries)
        return entries

    def __call__(self):
        status = self._function(self._address)
        if status:
            raise _refused(status)


def rotate(q, rows, k=None, **options):
    """Rotates q, and k beside it, in place by the rows of a Table or of a Spectrum and positions. Options: positions
    [tokens] or [batches, tokens]; layout half_split, interleaved or blocked with group; write_layout; direction
    rotate, unrotate or gradient; first_channel, where the channels that rotate begin in heads that have others too;
    order bshd or bhsd; dtype="bf16" for uint16 data. Returns q.
    A negative position differs between the two: it is no row of a Table, so its token is not touched, while a Spectrum
    rotates it by the negative angle. A call that raises Error has touched nothing.
    Preparing the call takes Python some 10 us; a Rotation is prepared once, and its calls take less than 1 us."""
    Rotation(q, rows, k, **options)()
    return q


try:
    import torch as _torch
except ImportError:
    _torch = None

if _torch is not None:

    class Rotate(_torch.autograd.Function):
        """y = rotate(x) as torch differentiates it: the gradient is the transposed rotation.

            y = ropewalk.Rotate.apply(x, table, {"positions": positions, "order": "bhsd"})
        """

        @staticmethod
        def forward(ctx, x, rows, options):
            ctx.rows, ctx.options = rows, options
            out = x.detach().clone(memory_format=_torch.contiguous_format)
            return rotate(out, rows, **options)

        @staticmethod
        def backward(ctx, gradient):
            out = gradient.detach().clone(memory_format=_torch.contiguous_format)
            return rotate(out, ctx.rows, **{**ctx.options, "direction": "gradient"}), None, None

    __all__.append("Rotate")
