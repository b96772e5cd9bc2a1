"""What a user asked to have measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isopatch.bench.setting import PRECISIONS, Mode
from isopatch.kernels.twin import Precision

BATCH: dict[Mode, int] = {"infer": 8, "train": 32}


@dataclass(frozen=True)
class Request:
    """One run of the bench.

    models: names or checkpoints. image_size, arguments: of all of them. kernels: of ours; "auto" is plain
    PyTorch and, where the machine can run any, twins. peers: names of PEERS. threads: each number is tried;
    none is every core at once. memory: whether peak memory is measured, which takes a process per contender.
    """

    models: tuple[str, ...]
    mode: Mode = "infer"
    batch: int | None = None
    image_size: int | tuple[int, int] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    precisions: tuple[Precision, ...] = PRECISIONS
    kernels: str = "auto"
    peers: tuple[str, ...] = ()
    rounds: int = 5
    threads: tuple[int, ...] = ()
    device: str = "cpu"
    seed: int = 0
    memory: bool = True
