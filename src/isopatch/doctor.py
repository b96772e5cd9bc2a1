"""`isopatch doctor`: what this installation and this machine are, to read or to send with a question."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from isopatch.image import native as pixels
from isopatch.kernels import native, triton
from isopatch.training.hardware import available_cores, cpu_flags, cpu_name, installed

PACKAGES = (
    "isopatch",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "pyarrow",
    "safetensors",
    "huggingface-hub",
    "pydantic",
    "datasets",
    "simplejpeg",
)
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16")


def examine() -> dict[str, Any]:
    """Return versions, CPU, GPU, measured matrix rates, disk and paths as plain JSON values."""
    flags = cpu_flags()
    rates = matrix_rates()
    return {
        "versions": installed(PACKAGES),
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores_allowed": available_cores(),
        "memory_gib": memory_gib(),
        "gpus": gpus(),
        "matrix_gflops": rates,
        "bf16_speedup": round(rates["bf16"] / rates["fp32"], 2),
        "native_kernels": native_kernels(),
        "triton": triton_kernels(),
        "pixel_library": pixel_library(),
        "free_disk_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "ISOPATCH_DATA": shared_data(),
    }


def memory_gib() -> float | None:
    """Return the machine's memory, or None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def gpus() -> list[dict[str, Any]]:
    """Return name, memory and capability of every CUDA device torch sees."""
    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / 2**30, 1),
                "capability": f"{properties.major}.{properties.minor}",
                "bf16": torch.cuda.is_bf16_supported(),
            }
        )
    return found


def matrix_rates(side: int = 1024, repeats: int = 5) -> dict[str, float]:
    """Return GFLOP/s of a square matrix product on the CPU, median of `repeats`, for float32 and bfloat16."""
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left = torch.ones(side, side, dtype=dtype)
        right = torch.ones(side, side, dtype=dtype)
        left @ right  # the first product sets up the library's buffers
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            left @ right
            seconds.append(time.perf_counter() - started)
        rates[name] = round(2 * side**3 / statistics.median(seconds) / 1e9, 1)
    return rates


def pixel_library() -> str:
    """Say who prepares training pictures."""
    if pixels.load() is not None:
        return "used: training pictures are prepared in compiled code"
    return "not built, or not like the installed Pillow, which prepares training pictures: same bits, slower"


def native_kernels() -> str:
    """Name the instruction set that the CPU kernels use, or say why there are none."""
    reason = native.unavailable("cpu")
    return native.instructions() if reason is None else f"none: {reason}"


def triton_kernels() -> str:
    """Say whether the GPU kernels run here, or why not."""
    reason = triton.unavailable("cuda")
    return "ready" if reason is None else f"none: {reason}"


def shared_data() -> str:
    """Say where tests and result commands look for data."""
    folder = os.environ.get("ISOPATCH_DATA")
    if folder is None:
        return "not set: tests on real data skip"
    return folder if Path(folder).is_dir() else f"{folder} (no such folder)"
