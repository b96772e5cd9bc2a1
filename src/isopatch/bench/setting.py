"""What can be measured of a model: who runs it, in which precision, layout and number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Literal

from isopatch.errors import UsageError, nearest
from isopatch.kernels.twin import Precision

Mode = Literal["infer", "train"]
Layout = Literal["nchw", "channels_last"]

OURS = ("isopatch-plain", "isopatch-native", "isopatch-triton")
PEERS = ("timm", "timm-compile", "openvino", "onnxruntime")
# What each needs beside isopatch's own dependencies, as one would install it.
PACKAGES: dict[str, tuple[str, ...]] = {
    "timm": (),
    "timm-compile": (),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
}
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


@dataclass(frozen=True)
class Task:
    """What is timed: one forward pass of a batch, or one training step of it. device: "cpu" or "cuda"."""

    mode: Mode
    batch: int
    device: str = "cpu"


@dataclass(frozen=True)
class Setting:
    """One way to run a model.

    contender: a name of OURS, "timm", "timm-compile", "openvino-latency", "openvino-throughput" or
    "onnxruntime". layout: of pictures and weights, where PyTorch is asked for one; None elsewhere.
    """

    contender: str
    precision: Precision
    threads: int
    layout: Layout | None = None

    @property
    def ours(self) -> bool:
        """Whether isopatch runs it."""
        return self.contender in OURS

    @property
    def kernels(self) -> str:
        """The name that `swap` has for our kernels."""
        assert self.ours
        return self.contender.removeprefix("isopatch-")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for a log."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return ", ".join([self.contender, self.precision, *([self.layout] if self.layout else []), threads])


def read_peers(text: str | None) -> tuple[str, ...]:
    """Return the peers of `--peers a,b`; None is every peer, "none" no peer. Unknown ones: UsageError."""
    if text is None:
        return PEERS
    names = _items(text)
    if names == ["none"]:
        return ()
    for name in names:
        if name not in PEERS:
            raise UsageError(
                f"--peers: no peer '{name}'{nearest(name, PEERS)}: there are {', '.join(PEERS)}, none"
            )
    if not names:
        raise UsageError(f"--peers: give some of {', '.join(PEERS)}, or none")
    return tuple(dict.fromkeys(names))


def read_precisions(text: str) -> tuple[Precision, ...]:
    """Return the precisions of `--precision a,b`; "auto" is each of them, and the fastest counts."""
    names = _items(text)
    if names == ["auto"]:
        return PRECISIONS
    wrong = [name for name in names if name not in PRECISIONS]
    if wrong or not names:
        name = wrong[0] if wrong else text
        raise UsageError(
            f"--precision '{name}'{nearest(name, ('auto', *PRECISIONS))}: give auto, fp32, bf16 or fp32,bf16"
        )
    return tuple(precision for precision in PRECISIONS if precision in names)


def read_threads(text: str) -> tuple[int, ...]:
    """Return the numbers of `--threads 1,2`."""
    items = _items(text)
    if not items or not all(item.isascii() and item.isdigit() and int(item) > 0 for item in items):
        raise UsageError(f"--threads {text}: give numbers of threads, such as 1,2")
    return tuple(sorted({int(item) for item in items}))


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def missing_packages(peer: str) -> list[str]:
    """Return what of a peer is not installed."""
    return [package for package in PACKAGES[peer] if find_spec(package) is None]


def ours(kernels: str, precisions: Sequence[Precision], layouts: Sequence[Layout]) -> list[Setting]:
    """Return our ways to run: plain PyTorch in every layout, twins as they are. Threads are set to 1."""
    name = f"isopatch-{kernels}"
    asked: Sequence[Layout | None] = layouts if kernels == "plain" else [None]
    return [Setting(name, precision, 1, layout) for precision in precisions for layout in asked]


def of_peer(
    peer: str, task: Task, precisions: Sequence[Precision], layouts: Sequence[Layout]
) -> list[Setting]:
    """Return the ways to run a peer. Threads are set to 1. Raises UsageError where it cannot serve a task."""
    if peer in ("timm", "timm-compile"):
        # In inference torch.compile freezes the weights into the layout its own convolutions want: asking for
        # one only costs a second compilation (measured on ConvMixer: within the noise).
        asked = layouts[:1] if peer == "timm-compile" and task.mode == "infer" else layouts
        return [Setting(peer, precision, 1, layout) for precision in precisions for layout in asked]
    if task.mode == "train":
        raise UsageError("runs inference, does not train")
    if task.device != "cpu":
        raise UsageError(f"is measured on the CPU here, not on {task.device}")
    if peer == "onnxruntime":
        if "fp32" not in precisions:
            raise UsageError("computes in fp32 on a CPU, which --precision leaves out")
        return [Setting(peer, "fp32", 1)]
    hints = ("latency", "throughput")
    return [Setting(f"openvino-{hint}", precision, 1) for hint in hints for precision in precisions]
