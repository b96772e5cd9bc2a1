"""Evaluate a model on labelled pictures: exact metrics, per head where it has several, and its mistakes.

One pass, memory constant in the number of pictures. Nothing global changes: every module's training flag is
what it was before, and no random number is drawn.
"""

from __future__ import annotations

import base64
import contextlib
import heapq
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from isopatch.data.loader import EvalBatch, eval_batches
from isopatch.data.source import ImageSource
from isopatch.errors import UsageError
from isopatch.image.contract import InputContract
from isopatch.image.names import printable
from isopatch.training.metrics import MetricAccumulator

THUMBNAIL_SIDE = 96  # pixels; a photograph of this size is about 15 KB of PNG
MAX_GALLERY = 24


class Interrupted(Exception):
    """`stop` asked to end the evaluation before every picture was seen; no result exists."""


class Observer(Protocol):
    """Follows an evaluation: it computes the heads' logits, and sees each batch after it was counted."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what `model(images, heads=True)` does."""
        ...

    def see(self, batch: EvalBatch, logits: Mapping[str | None, NDArray[np.float32]]) -> None:
        """Look at a batch and what `forward_heads` made of it."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`; fractions lie in 0..1.

    classes: the names the label numbers stand for.
    scalars: top1, top5, nll, ece, brier, macro_recall, num_images and num_correct of model(x).
    metrics: what they were computed from; heads: the same per head, empty for a model with one head.
    agreement: share of pictures for which all heads predict one class; None with one head.
    mistakes: the most confident wrong predictions, most confident first.
    distillation: what the heads learned, from `isopatch.training.heads.evaluate_taught`; None elsewhere.
    precision: what the model ran in. kernels: "plain", "native" or "triton", where that is known;
    instruction_set: the CPU's that native kernels use; threads: of the process. They decide the last bits.
    """

    classes: tuple[str, ...]
    scalars: dict[str, float | int]
    metrics: MetricAccumulator
    heads: dict[str, MetricAccumulator]
    agreement: float | None
    mistakes: tuple[dict[str, Any], ...]
    distillation: dict[str, Any] | None = None
    precision: str = "fp32"
    kernels: str | None = None
    instruction_set: str | None = None
    threads: int = field(default_factory=torch.get_num_threads)

    @property
    def top1(self) -> float:
        """Share of pictures whose most probable class is the true one."""
        return float(self.scalars["top1"])

    @property
    def top5(self) -> float:
        """Share of pictures whose true class is among the min(5, classes) most probable ones."""
        return float(self.scalars["top5"])

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood of the true class, natural logarithm."""
        return float(self.scalars["nll"])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values.

        Keys: top1 top5 nll ece brier num_images num_correct macro_recall, per_class, confusion
        [true][predicted] (None above 4096 classes), calibration, mistakes, precision, threads; for a model
        with several heads also heads: {name: {top1, top5, nll, num_correct}, ..., "agreement": share};
        distillation, and kernels with instruction_set, where they are known.
        """
        names = tuple(printable(name) for name in self.classes)
        result: dict[str, Any] = {
            **self.scalars,
            "per_class": self.metrics.per_class(names),
            "confusion": self.metrics.confusion(),
            "calibration": self.metrics.calibration(),
            "mistakes": list(self.mistakes),
            "precision": self.precision,
            "threads": self.threads,
        }
        if self.kernels is not None:
            result |= {"kernels": self.kernels, "instruction_set": self.instruction_set}
        if self.heads:
            kept = ("top1", "top5", "nll", "num_correct")
            counted = {name: head.scalars() for name, head in self.heads.items()}
            result["heads"] = {name: {key: values[key] for key in kept} for name, values in counted.items()}
            result["heads"]["agreement"] = self.agreement
        if self.distillation is not None:
            result["distillation"] = self.distillation
        return result


def evaluate(
    model: nn.Module,
    source: ImageSource,
    contract: InputContract,
    *,
    classes: Sequence[str],
    batch_size: int = 256,
    workers: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    memory_limit_mb: float = 0.0,
    gallery: int = MAX_GALLERY,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
    observer: Observer | None = None,
) -> Evaluation:
    """Evaluate `model` on every picture of `source`, each exactly once.

    classes: the names of the model's outputs, in order; the source's must be the same
        (`isopatch.data.sources.relabel` matches a source's labels to a model's by name).
    precision: "bf16" and "fp16" run the model under autocast; metrics are float64 in any case.
    gallery: number of mistakes kept with a thumbnail of the decoded picture, at most 24.
    stop: asked before each batch; True ends with `Interrupted`.
    progress: called after each batch with the pictures seen and the pictures in all.
    observer: computes the logits in place of model(x, heads=True), and sees them.
    Counts do not depend on batch_size and workers; the other figures agree within 1e-6 in fp32.
    Raises `UsageError` where the source is empty or its classes are not `classes`, `IsopatchError` naming the
    picture where the output is not finite.
    """
    if len(source) == 0:
        raise UsageError("no picture to evaluate: the split is empty")
    class_names = tuple(classes)
    if tuple(source.classes) != class_names:
        raise UsageError(
            f"the data's {len(source.classes)} classes are not the model's {len(class_names)}, or not in its "
            "order; match them by name first"
        )
    total = MetricAccumulator(len(class_names))
    heads: dict[str, MetricAccumulator] = {}
    agreeing = 0
    worst = _WorstMistakes(min(gallery, MAX_GALLERY))
    batches = eval_batches(
        source, contract, batch_size=batch_size, workers=workers, memory_limit_mb=memory_limit_mb
    )
    with evaluation_mode(model), contextlib.closing(batches) as stream:
        for batch in stream:
            if stop is not None and stop():
                raise Interrupted
            indices, labels = batch.indices.numpy(), batch.labels.numpy()

            def name(row: int, indices: NDArray[np.int64] = indices) -> str:
                return printable(source.name(int(indices[row])))

            outputs = forward_heads(
                model,
                batch.images,
                device=device,
                precision=precision,
                forward=None if observer is None else observer.forward,
            )
            if outputs[None].shape[1] != len(class_names):
                raise UsageError(
                    f"the model has {outputs[None].shape[1]} outputs for {len(class_names)} class names"
                )
            predictions, confidence = total.update(outputs[None], labels, name=name)
            worst.add(predictions, confidence, labels, indices)
            votes = []
            for head, logits in outputs.items():
                if head is not None:
                    counter = heads.setdefault(head, MetricAccumulator(len(class_names)))
                    votes.append(counter.update(logits, labels, name=name)[0])
            if votes:
                agreeing += int(np.all([vote == votes[0] for vote in votes], axis=0).sum())
            if observer is not None:
                observer.see(batch, outputs)
            if progress is not None:
                progress(total.num_images, len(source))
    assert total.num_images == len(source), "a picture was left out or counted twice"
    return Evaluation(
        classes=class_names,
        scalars=total.scalars(),
        metrics=total,
        heads=heads,
        agreement=agreeing / total.num_images if heads else None,
        mistakes=tuple(_describe(mistake, source, class_names) for mistake in worst.sorted()),
        precision=precision,
    )


def forward_heads(
    model: nn.Module,
    images: torch.Tensor,
    *,
    device: str,
    precision: str,
    forward: Callable[[torch.Tensor], dict[str, torch.Tensor]] | None = None,
) -> dict[str | None, NDArray[np.float32]]:
    """Return the model's logits (B, K) in float32 under the key None, and each head's where it has several.

    The logits of several heads are averaged as `model(x)` does, without a second pass. forward: in place of
    model(images, heads=True).
    """
    with torch.no_grad(), autocast(device, precision):
        placed = images.to(device, non_blocking=True)
        heads = model(placed, heads=True) if forward is None else forward(placed)
    logits = {name: value.float() for name, value in heads.items()}
    mean = torch.stack(list(logits.values())).mean(dim=0) if len(logits) > 1 else next(iter(logits.values()))
    result: dict[str | None, NDArray[np.float32]] = {None: mean.cpu().numpy()}
    if len(logits) > 1:
        result.update({name: value.cpu().numpy() for name, value in logits.items()})
    return result


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context of a precision; "fp32" does nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise UsageError(f"precision {precision!r}: choose fp32, bf16 or fp16")
    return torch.autocast(torch.device(device).type, dtype=dtypes[precision])


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode; afterwards each has its own former flag, frozen parts included."""
    former = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in former:
            module.training = training


class _WorstMistakes:
    """The most confident wrong predictions seen so far: a heap of bounded size, pictures not kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[float, int, int, int]] = []  # (confidence, -index, label, prediction)

    def add(
        self,
        predictions: NDArray[np.int64],
        confidence: NDArray[np.float64],
        labels: NDArray[np.int64],
        indices: NDArray[np.int64],
    ) -> None:
        for row in np.flatnonzero(predictions != labels):
            entry = (float(confidence[row]), -int(indices[row]), int(labels[row]), int(predictions[row]))
            if len(self._heap) < self._limit:
                heapq.heappush(self._heap, entry)
            elif self._heap and entry > self._heap[0]:
                heapq.heapreplace(self._heap, entry)

    def sorted(self) -> list[tuple[float, int, int, int]]:
        best_first = sorted(self._heap, reverse=True)
        return [(confidence, -index, label, made) for confidence, index, label, made in best_first]


def _describe(
    mistake: tuple[float, int, int, int], source: ImageSource, classes: tuple[str, ...]
) -> dict[str, Any]:
    confidence, index, label, prediction = mistake
    return {
        "name": printable(source.name(index)),
        "label": printable(classes[label]),
        "prediction": printable(classes[prediction]),
        "confidence": confidence,
        "thumbnail": thumbnail(source.read(index)),
    }


def thumbnail(picture: Image.Image, side: int = THUMBNAIL_SIDE) -> str:
    """Return the picture, no side longer than `side` pixels, as a `data:image/png;base64,` URI."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
