"""The compiled library: where it is, what it can do here, and calls into it.

Its C interface is `native/kernels/passes.h`; `FIELDS` repeats the members of its structs (tested).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isopatch.errors import IsopatchError

INTERFACE = 5  # isopatch_interface() of the library this file was written for
FILE = "_isopatch_native.so"
# isopatch_supported()'s numbers; the last runs the code for AMX without AMX, for tests.
INSTRUCTIONS = ("none", "avx2", "avx512", "avx512_bf16", "amx", "amx_emulated")

_LINEAR = "dtype act source rows inner columns chunk {more}rows_per_image "
_HEADS = "dtype images tokens heads width factor "
_NORM = "mean rstd scale mean_g mean_gx"
_PICTURES = (
    "dtype act images height width in_channels patch inner channels chunk {more}"
    "stride_image stride_channel stride_row stride_column pictures "
)
FIELDS = {
    "depthwise_forward": "dtype act images height width channels kernel pad_top pad_left in in_scale "
    "in_shift x weight bias out scale shift sums",
    "pointwise_forward": "dtype act rows inner channels chunk x u1 scale1 shift1 weight bias out scale "
    "shift sums",
    "normalise": "dtype act rows channels chunk u scale shift x",
    "gradient_sums": "dtype act rows channels chunk g u mean rstd sums",
    "pointwise_backward": f"dtype act rows inner channels chunk groups g u {_NORM} x u1 mean1 rstd1 scale1 "
    "shift1 weight gy sums weight_sums bias_sums",
    "depthwise_backward": "dtype act images height width channels kernel groups pad_top pad_left gy u "
    f"{_NORM} x weight gx before_u before_mean before_rstd before_sums weight_sums bias_sums",
    "finish_norm": "parts each channels count sums weight bias eps mean rstd scale shift variance",
    "add_up": "parts size in out",
    "stem_forward": f"{_PICTURES.format(more='')}weight bias out scale shift sums",
    "stem_backward": f"{_PICTURES.format(more='groups ')}g u {_NORM} weight_sums bias_sums",
    "linear_forward": f"{_LINEAR.format(more='')}in norm_weight norm_bias eps mean rstd weight bias residual "
    "keep out",
    "linear_backward": f"{_LINEAR.format(more='groups ')}g residual keep in norm_weight norm_bias mean rstd "
    "weight g_stream g_in weight_sums bias_sums norm_sums",
    "attention_forward": f"{_HEADS}qkv out log_sums",
    "transformer_block": "norm1_weight norm1_bias eps1 qkv qkv_bias proj proj_bias norm2_weight norm2_bias "
    "eps2 fc1 fc1_bias fc2 fc2_bias",
    "transformer_infer": "dtype act images tokens dim hidden heads depth blocks stream",
    "convmixer_block": "taps depthwise_bias scale1 shift1 matrix pointwise_bias scale2 shift2",
    "convmixer_infer": "dtype act images height width channels kernel pad_top pad_left depth blocks in out",
    "attention_backward": f"{_HEADS}qkv out g log_sums g_qkv",
}
# Members that point to packed weights, or to activations in the storage type or float; others: to floats.
PACKED = {
    "pointwise_forward": "weight",
    "pointwise_backward": "weight",
    "stem_forward": "weight",
    "linear_forward": "weight",
    "linear_backward": "weight",
    "transformer_block": "qkv proj fc1 fc2",
    "convmixer_block": "taps matrix",
}
STORED = {
    "depthwise_forward": "in x out",
    "pointwise_forward": "x u1 out",
    "normalise": "u x",
    "gradient_sums": "g u",
    "pointwise_backward": "g u x u1 gy",
    "depthwise_backward": "gy u x gx before_u",
    "stem_forward": "out",
    "stem_backward": "g u",
    "linear_forward": "in out",
    "linear_backward": "g in g_in",
    "attention_forward": "qkv out",
    "convmixer_infer": "in out",
    "attention_backward": "qkv out g g_qkv",
}
DOUBLES = ("eps", "eps1", "eps2", "factor")
WITHOUT_THREADS = ("finish_norm",)
DTYPES = (torch.float32, torch.bfloat16)  # by the C interface's numbers
NO_MEMORY = 1  # what a pass returns; 0: done


class NativeLibrary:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        """Load it. Raises OSError where that fails, and for a library of another version."""
        self.path = path
        self._c = ctypes.CDLL(str(path))
        try:
            interface = self._c.isopatch_interface()
        except AttributeError:
            raise OSError(f"{path} is a library, but not that of isopatch's native kernels") from None
        if interface != INTERFACE:
            raise OSError(f"{path} belongs to another version of isopatch")
        self._c.isopatch_packed_bytes.restype = ctypes.c_int64
        self._c.isopatch_sample.restype = ctypes.c_uint64
        self._c.isopatch_use_openmp(ctypes.c_void_p(_torch_openmp()))
        self._structs = {name: _struct(name, fields.split()) for name, fields in FIELDS.items()}

    @property
    def instructions(self) -> str:
        """The instruction set that is used."""
        return INSTRUCTIONS[self._c.isopatch_chosen()]

    @property
    def supported(self) -> str:
        """The best instruction set of this CPU."""
        return INSTRUCTIONS[self._c.isopatch_supported()]

    def choose(self, instructions: str) -> str:
        """Use an instruction set, or the best there is below it; return which. For tests."""
        return INSTRUCTIONS[self._c.isopatch_choose(INSTRUCTIONS.index(instructions))]

    def call(self, name: str, **arguments: Any) -> None:
        """Run a pass. Tensors are given by their memory: contiguous, on the CPU; what is left out is null.

        Raises MemoryError where the pass finds none for what it works in, and RuntimeError for sizes with
        which it would leave the memory it is given.
        """
        values = {"in" if key == "in_" else key: value for key, value in arguments.items()}
        filled = self._filled(name, values)
        function = getattr(self._c, f"isopatch_{name}")
        threads = () if name in WITHOUT_THREADS else (ctypes.c_int(torch.get_num_threads()),)
        status = function(ctypes.byref(filled), *threads)
        if status == NO_MEMORY:
            raise MemoryError(f"the native kernels found no memory to work in ({name})")
        if status:
            sizes = {key: value for key, value in values.items() if isinstance(value, int)}
            raise RuntimeError(f"the native kernels refuse these sizes ({name}): {sizes}")

    def array(self, name: str, members: Sequence[Mapping[str, Any]]) -> ctypes.Array[Any]:
        """Lay out one struct after another, for a pass that takes several. Tensors must outlive it."""
        filled = (self._structs[name] * len(members))()
        for index, values in enumerate(members):
            filled[index] = self._filled(name, values)
        return filled

    def _filled(self, name: str, values: Mapping[str, Any]) -> ctypes.Structure:
        number = int(values.get("dtype", 0))
        return self._structs[name](
            **{key: _member(name, key, value, DTYPES[number]) for key, value in values.items()}
        )

    def pack(self, matrix: Tensor, dtype: torch.dtype) -> Tensor:
        """Pack a float matrix (columns, inner) of any strides, both multiples of 32, for products."""
        if matrix.dtype != torch.float32 or matrix.device.type != "cpu" or matrix.dim() != 2:
            raise TypeError(
                f"pack: {matrix.dtype} of {matrix.dim()} dimensions on {matrix.device} is no float matrix"
            )
        columns, inner = matrix.shape
        if not columns or not inner or columns % 32 or inner % 32:
            raise TypeError(f"pack: sizes {columns}x{inner} are not multiples of 32")
        kind, integer = dtype_number(dtype), ctypes.c_int64
        size = self._c.isopatch_packed_bytes(integer(kind), integer(inner), integer(columns))
        packed = torch.empty(size, dtype=torch.uint8, device="cpu")
        self._c.isopatch_pack(
            integer(kind),
            ctypes.c_void_p(matrix.data_ptr()),
            integer(matrix.stride(1)),
            integer(matrix.stride(0)),
            integer(inner),
            integer(columns),
            ctypes.c_void_p(packed.data_ptr()),
        )
        return packed

    def sample(self, tensors: Sequence[Tensor]) -> int:
        """Hash values spread over float tensors on the CPU whose memory has no gaps."""
        count = len(tensors)
        addresses = (ctypes.c_int64 * count)(*[tensor.data_ptr() for tensor in tensors])
        sizes = (ctypes.c_int64 * count)(*[tensor.numel() for tensor in tensors])
        return int(self._c.isopatch_sample(addresses, sizes, ctypes.c_int64(count)))


@functools.cache
def library() -> NativeLibrary | str:
    """Return the library, or one clause that says why there is none here."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"there are native kernels for x86-64 CPUs only, and this one is {platform.machine()}"
    path = find()
    if path is None:
        return (
            "isopatch was installed without its native kernels: there was no C++ compiler then, or it failed"
        )
    try:
        found = NativeLibrary(path)
    except OSError as error:
        return f"the native kernels cannot be loaded ({error})"
    if found.supported == "none":
        return "the native kernels need a CPU with AVX2 and FMA"
    return found


def loaded() -> NativeLibrary:
    """Return the library where it is known to be there."""
    found = library()
    if isinstance(found, str):
        raise IsopatchError(f"a model runs on native kernels, and here are none: {found}")
    return found


def find() -> Path | None:
    """Return the library's file: ISOPATCH_NATIVE names one, else beside this file, or as installed."""
    if given := os.environ.get("ISOPATCH_NATIVE"):
        return Path(given)
    beside = Path(__file__).parent / FILE
    if beside.is_file():
        return beside
    try:
        installed = metadata.files("isopatch") or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in installed if file.name == FILE), None)


def _torch_openmp() -> int | None:
    """Return the address of GOMP_parallel in the OpenMP runtime that PyTorch has loaded, or None."""
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    files = {line.split(maxsplit=5)[5] for line in mapped if line.count(" ") >= 5 and "omp" in line}
    for file in sorted(files, key=lambda file: ("torch" not in file, file)):
        if not Path(file).name.startswith(("libgomp", "libiomp5", "libomp")):
            continue
        with contextlib.suppress(OSError, AttributeError):
            runtime = ctypes.CDLL(file, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            return ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p).value
    return None


def dtype_number(dtype: torch.dtype) -> int:
    """The C interface's number of a storage type."""
    return DTYPES.index(dtype)


NO_TENSOR = torch.empty(0, device="cpu")  # where an activation was, that PyTorch keeps


def floats(*shape: int) -> Tensor:
    """Memory for float32 on the CPU, whatever PyTorch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _struct(name: str, fields: list[str]) -> type[ctypes.Structure]:
    kinds = dict.fromkeys(DOUBLES, ctypes.c_double)
    members = [(field, kinds.get(field, ctypes.c_int64)) for field in fields]  # pointers as integers
    return type(name, (ctypes.Structure,), {"_fields_": members})


def _member(name: str, key: str, value: Any, storage: torch.dtype) -> Any:
    """Return a member's value: a number, or where an array is that the pass may read or write."""
    if value is None:
        return 0
    if isinstance(value, ctypes.Array):
        return ctypes.addressof(value)
    if isinstance(value, int | float):
        return value
    if not isinstance(value, Tensor) or value.dim() == 0:
        raise TypeError(f"{name}: {key} is {type(value).__name__}, neither a number nor memory")
    wanted = _wanted(name, key, storage)
    if value.device.type != "cpu" or not value.is_contiguous() or value.dtype not in wanted:
        raise TypeError(
            f"{name}: {key} is {value.dtype} {tuple(value.shape)} with strides {value.stride()} on "
            f"{value.device}, not contiguous {' or '.join(map(str, wanted))} on the CPU"
        )
    return value.data_ptr()


@functools.cache
def _wanted(name: str, key: str, storage: torch.dtype) -> tuple[torch.dtype, ...]:
    """What a member may point to."""
    if key in PACKED.get(name, "").split():
        return (torch.uint8,)
    return (torch.float32, storage) if key in STORED.get(name, "").split() else (torch.float32,)
