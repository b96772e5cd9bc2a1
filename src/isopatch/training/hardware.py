"""The machine: what it is, and the choices (threads, precision, device) that a resumed run replays."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from isopatch import __version__
from isopatch.errors import UsageError
from isopatch.training.config import RunConfig

PACKAGES = ("isopatch", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "pyarrow")
BF16_WORTH_MACS = 4e6  # below this per picture, casting costs more than bfloat16 products save (measured)
# With either, bfloat16 is faster at any number of threads, one included: attention as two products
# (results/attention_roads.json) and the native kernels multiply it directly.
FAST_BF16 = ("amx_bf16", "avx512_bf16")

# Below this per forward pass one thread is as fast as several: they would wait for each other longer than
# they compute, and many times longer on a machine that others use too (measured).
ONE_THREAD_MACS = 5e8


@dataclass(frozen=True)
class Choices:
    """What `auto` meant on this machine. Recorded in every checkpoint, replayed on resume.

    kernels: "plain", "native" or "triton". instruction_set: the CPU's that native kernels use. Checkpoints
    written before there were kernels have neither: they are plain. forms: what triton kernels measured to be
    fastest on this GPU, name of the twin -> shape -> form.
    """

    device: str
    precision: str
    threads: int
    kernels: str = "plain"
    instruction_set: str | None = None
    forms: dict[str, dict[str, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values; without forms where nothing has any."""
        return {key: value for key, value in asdict(self).items() if key != "forms" or value}


def choose(config: RunConfig, macs_per_image: int) -> Choices:
    """Resolve device, precision and threads: a fixed rule, no timing, so two runs agree.

    Kernels are left plain: which can run is known once the model is there (`isopatch.training.twins`).
    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device: {device} was asked for, but torch sees no CUDA GPU; use --device cpu")
    work = macs_per_image * config.micro_batch_size
    threads = config.threads or (1 if work < ONE_THREAD_MACS else available_cores())
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if _gains_from_bf16(device, macs_per_image) else "fp32"
    if precision == "fp16" and device == "cpu":
        raise UsageError("precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return Choices(device, precision, threads)


def busy_note(threads: int) -> str | None:
    """Say that other work keeps the cores busy, where several threads would wait for each other."""
    load = os.getloadavg()[0] if sys.platform != "win32" else 0.0
    if threads < 2 or load < available_cores() / 2:
        return None
    return (
        f"the machine is busy (load {load:.1f} on {available_cores()} cores): {threads} threads wait for "
        f"each other then, and --threads 1 may be several times faster"
    )


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _gains_from_bf16(device: str, macs_per_image: int) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return macs_per_image >= BF16_WORTH_MACS and not cpu_flags().isdisjoint(FAST_BF16)


def cpu_flags() -> frozenset[str]:
    """Instruction sets of the CPU as Linux names them; empty where it does not say."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return frozenset()
    for line in info.read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def cpu_name() -> str:
    """The CPU's marketing name, with its core count."""
    info = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        name = names[0] if names else name
    return f"{name}, {available_cores()} cores"


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return versions by package; "not installed" where one is absent. isopatch's is that of this code."""
    versions = {}
    for package in packages:
        try:
            versions[package] = __version__ if package == "isopatch" else metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def describe_environment(choices: Choices) -> dict[str, Any]:
    """What env.json records: versions, machine, choices, and the commit of a source checkout."""
    gpu = torch.cuda.get_device_name() if choices.device.startswith("cuda") else None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "gpu": gpu,
        "versions": installed(PACKAGES),
        "choices": choices.to_json(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
