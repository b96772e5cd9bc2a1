"""The machine and the versions that a measurement was made with."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import torch

from isopatch.training.hardware import available_cores, cpu_flags, cpu_name

PACKAGES = ("isopatch", "torch", "timm", "openvino", "onnxruntime")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def describe_machine(device: str) -> dict[str, Any]:
    """Return CPU, cores, GPU and versions as plain JSON values; packages that are not there are left out."""
    flags = cpu_flags()
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "versions": versions,
    }
