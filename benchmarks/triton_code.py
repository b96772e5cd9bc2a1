"""What the compiler makes of the Triton kernels, for GPUs this machine need not have.

Claim: every kernel compiles for compute capability 8.0 and 9.0, in bf16 and fp16, keeps its sums in registers
(nothing spilled to memory), reads and writes maps 16 bytes at a time, and the Toeplitz form runs on tensor
cores. That is a property of the code, not a speed: no GPU is used.
Hardware: any that Triton installs on; the compiler and `cuobjdump` come with Triton. Time: 10 minutes.
Command: python -m benchmarks.triton_code
"""

from __future__ import annotations

import collections
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # before Triton is imported: this compiles

from benchmarks.common import parser, record

KERNEL_SIZES = (3, 5, 7, 9, 15)
TARGETS = ((80, "bf16"), (90, "bf16"), (90, "fp16"))
TAIL = {  # what a convolution does after its sums: device/direct.py
    "inference": {"FLIP": False, "APPLY": True, "RESIDUAL": True, "STATISTICS": False},
    "training": {"FLIP": False, "APPLY": False, "RESIDUAL": False, "STATISTICS": True},
    "input gradient": {"FLIP": True, "APPLY": False, "RESIDUAL": True, "STATISTICS": False},
}
FLOAT32 = ("weight", "scale", "shift", "mean", "square", "count", "bias", "partial", "terms", "sums")


def main() -> int:
    """Compile, disassemble, count."""
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="kernel size 3, two forms, one target")
    given = options.parse_args()
    started = time.monotonic()
    sizes, targets = ((3,), ((90, "bf16"),)) if given.quick else (KERNEL_SIZES, TARGETS)
    rows = [
        {
            "kernel": name,
            "capability": capability,
            "type": half,
            **_compiled(kernel, constants, warps, capability, half),
        }
        for (capability, half), (name, kernel, constants, warps) in itertools.product(
            targets, _kernels(sizes, 2 if given.quick else 1)
        )
    ]
    spilled = [row["kernel"] for row in rows if row["bytes_spilled"]]
    narrow = [row["kernel"] for row in rows if not row["wide_accesses"]]
    plain = [row["kernel"] for row in rows if "toeplitz" in row["kernel"] and not row["tensor_core_products"]]
    return record(
        "triton_code",
        claim="no kernel spills, all access maps 16 bytes at a time, the Toeplitz form uses tensor cores",
        measured=f"{len(rows)} compilations: {len(spilled)} spill, {len(narrow)} without 16-byte accesses, "
        f"{len(plain)} Toeplitz without tensor cores; most registers {max(row['registers'] for row in rows)}",
        figure={"spilled": spilled, "narrow": narrow, "without_tensor_cores": plain},
        passed=not (spilled or narrow or plain),
        n=len(rows),
        seed=None,
        started=started,
        out=given.out,
        rows=rows,
    )


def _kernels(sizes: tuple[int, ...], every: int) -> Iterator[tuple[str, Any, dict[str, Any], int]]:
    """Yield name, kernel, constants and warps as they are launched for 32 x 32 maps; each `every`-th form."""
    from isopatch.kernels.triton.device import direct, norm, toeplitz
    from isopatch.kernels.triton.forms import FORMS
    from isopatch.kernels.triton.normalise import TILES

    for form, size in itertools.product(FORMS[::-every], sizes):
        if size > form.largest_kernel:
            continue
        fixed: dict[str, Any] = {"K": size, "PAD": (size - 1) // 2, "ROWS": form.rows}
        if form.layout == "tokens":
            module: Any = direct
            fixed |= {"COLS": form.cols, "CHANNELS": form.channels}
        else:
            module = toeplitz
            fixed |= {"W": 32, "SIDE": form.side(32), "WIDEN": False}
        for tail, flags in TAIL.items():
            yield f"{form.name} k{size} {tail}", module.convolve, {**fixed, **flags, "ACTIVATION": "gelu"}, 4
        yield f"{form.name} k{size} weight gradient", module.weight_gradient, fixed, 4
    for layout, tile in TILES.items():
        fixed = {"ACTIVATION": "gelu", "PLACES": tile.places, "CHANNELS": tile.channels}
        fixed |= {"channel_stride": 1} if layout == "tokens" else {"place_stride": 1}
        yield f"{layout} statistics", norm.statistics, fixed, 4
        yield f"{layout} apply", norm.apply, {**fixed, "RESIDUAL": True}, 4
        yield f"{layout} gradient sums", norm.gradient_sums, fixed, 4
        yield f"{layout} gradient", norm.gradient, {**fixed, "BATCH": True}, 4


def _compiled(
    kernel: Any, constants: dict[str, Any], warps: int, capability: int, half: str
) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types, hints = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            types[name] = "constexpr"
            continue
        part = name.split("_")[0]
        types[name] = ("*fp32" if part in FLOAT32 else f"*{half}") if name.endswith("_ptr") else "i32"
        if name.endswith("_ptr") or name in (
            "C",
            "H",
            "W",
            "M",
            "all_rows",
            "place_stride",
            "channel_stride",
        ):
            hints[(index,)] = [["tt.divisibility", 16]]  # tensors and the published sizes are
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=hints)
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(done.asm["cubin"])
        usage, code = (
            subprocess.run([tool, option, binary], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    assert found is not None, usage
    words = collections.Counter(re.findall(r"\b(HGMMA|HMMA|FFMA|LDG|STG|LDGSTS|LDL|STL)\b", code))
    return {
        "registers": int(found[1]),
        "bytes_spilled": int(found[2]) + int(found[3]),
        "shared_bytes": done.metadata.shared,
        "wide_accesses": len(re.findall(r"\b(?:LDG|STG|LDGSTS)\.E[.A-Z]*\.128\b", code)),
        "tensor_core_products": words["HGMMA"] + words["HMMA"],
        "fused_multiply_adds": words["FFMA"],
    }


if __name__ == "__main__":
    sys.exit(main())
