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

INTERFACE = 2  # isopatch_interface() of the library this file was written for
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
    "attention_backward": f"{_HEADS}qkv out g log_sums g_qkv",
}
DOUBLES = ("eps", "eps1", "eps2", "factor")
WITHOUT_THREADS = ("finish_norm",)


class NativeLibrary:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        """Load it. Raises OSError where that fails, and for a library of another version."""
        self.path = path
        self._c = ctypes.CDLL(str(path))
        if self._c.isopatch_interface() != INTERFACE:
            raise OSError(f"{path} belongs to another version of isopatch")
        self._c.isopatch_packed_bytes.restype = ctypes.c_int64
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
        """Run a pass. Tensors are given by their memory: contiguous, on the CPU; what is left out is null."""
        values = {"in" if key == "in_" else key: value for key, value in arguments.items()}
        filled = self._filled(name, values)
        function = getattr(self._c, f"isopatch_{name}")
        if name in WITHOUT_THREADS:
            function(ctypes.byref(filled))
        else:
            function(ctypes.byref(filled), ctypes.c_int(torch.get_num_threads()))

    def array(self, name: str, members: Sequence[Mapping[str, Any]]) -> ctypes.Array[Any]:
        """Lay out one struct after another, for a pass that takes several. Tensors must outlive it."""
        filled = (self._structs[name] * len(members))()
        for index, values in enumerate(members):
            filled[index] = self._filled(name, values)
        return filled

    def _filled(self, name: str, values: Mapping[str, Any]) -> ctypes.Structure:
        return self._structs[name](**{key: _member(key, value) for key, value in values.items()})

    def pack(self, matrix: Tensor, dtype: torch.dtype) -> Tensor:
        """Pack a float matrix (columns, inner) of any strides, both multiples of 32, for products."""
        columns, inner = matrix.shape
        assert matrix.dtype == torch.float32, matrix.dtype
        kind, integer = dtype_number(dtype), ctypes.c_int64
        size = self._c.isopatch_packed_bytes(integer(kind), integer(inner), integer(columns))
        packed = torch.empty(size, dtype=torch.uint8)
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


@functools.cache
def library() -> NativeLibrary | str:
    """Return the library, or one clause that says why there is none here."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"there are native kernels for x86-64 CPUs only, and this one is {platform.machine()}"
    path = find()
    if path is None:
        return "isopatch was installed without its native kernels, which need a C++ compiler at installation"
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
    assert isinstance(found, NativeLibrary), found
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
    return {torch.float32: 0, torch.bfloat16: 1}[dtype]


def _struct(name: str, fields: list[str]) -> type[ctypes.Structure]:
    kinds = dict.fromkeys(DOUBLES, ctypes.c_double)
    members = [(field, kinds.get(field, ctypes.c_int64)) for field in fields]  # pointers as integers
    return type(name, (ctypes.Structure,), {"_fields_": members})


def _member(name: str, value: Any) -> Any:
    if value is None:
        return 0
    if isinstance(value, Tensor):
        assert value.is_contiguous() and value.device.type == "cpu", (name, value.shape, value.stride())
        return value.data_ptr()
    return ctypes.addressof(value) if isinstance(value, ctypes.Array) else value
