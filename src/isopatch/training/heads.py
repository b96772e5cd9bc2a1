"""What a student learned: its heads and tokens, beside its teacher and its undistilled twin.

DeiT (Touvron et al. 2021), section 5.2, tables 3 and 4. Every model sees every picture once, prepared by its
own input contract.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from isopatch.data.loader import EvalBatch, eval_batches
from isopatch.data.source import ImageSource
from isopatch.image.contract import InputContract
from isopatch.image.names import printable
from isopatch.nn.classifier import Classifier
from isopatch.nn.skeleton import Isotropic
from isopatch.training.evaluate import (
    MAX_GALLERY,
    Evaluation,
    Interrupted,
    autocast,
    evaluate,
    evaluation_mode,
)
from isopatch.training.metrics import MetricAccumulator, softmax
from isopatch.training.paired import Decisions, disagreement, paired, recall_gains
from isopatch.training.teacher import Member, mean_of

KEPT = ("top1", "top5", "nll", "num_correct")  # of each voter


def evaluate_taught(
    model: Classifier,
    source: ImageSource,
    contract: InputContract,
    *,
    classes: Sequence[str],
    teacher: Sequence[Member] = (),
    baseline: Sequence[Member] = (),
    batch_size: int = 256,
    workers: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    gallery: int = MAX_GALLERY,
    stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """Evaluate a student as `evaluate` does and add what it learned as `Evaluation.distillation`.

    teacher: the models that taught it; several are one voter, the mean of their probabilities. baseline: the
    student trained without one. Of both, the outputs that are `classes` count. The result has the keys

    heads: top1, top5, nll, num_correct of cls, dist, mean_of_logits (what the model returns) and
        mean_of_probabilities (the paper's "class + distillation"); only for a model with both heads.
    token_cosine: see `TokenCosine`; only for a model with both tokens.
    teacher, baseline: source, the same four figures, and compared: `Paired.to_json`, the student's decisions
        against theirs; the baseline also has gains: see `recall_gains`.
    disagreement: see `paired.disagreement`, of truth, teacher, baseline and cls, dist, both (what the model
        returns), or student where there is one head.

    A model with one head, without teacher and baseline, has nothing to add: distillation is None.
    """
    names = tuple(printable(name) for name in classes)
    watch = _Watch(model, len(source), len(names))
    result = evaluate(
        model,
        source,
        contract,
        classes=classes,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        gallery=gallery,
        stop=stop,
        observer=watch,
    )
    told: dict[str, Any] = {}
    decisions: dict[str, Decisions] = {"truth": np.asarray(source.labels)}
    ours = watch.decisions[None]
    if watch.joint is not None:
        told["heads"] = {
            **{name: _figures(head) for name, head in result.heads.items()},
            "mean_of_logits": _figures(result.metrics),
            "mean_of_probabilities": _figures(watch.joint),
        }
    if watch.cosine is not None:
        told["token_cosine"] = watch.cosine.to_json()
    for who, members in (("teacher", teacher), ("baseline", baseline)):
        if not members:
            continue
        opinion = ask(
            members,
            source,
            len(names),
            batch_size=batch_size,
            workers=workers,
            device=device,
            precision=precision,
            stop=stop,
        )
        decisions[who] = opinion.decisions
        told[who] = {
            "source": printable(", ".join(member.source for member in members)),
            **_figures(opinion.metrics),
            "compared": paired(ours, opinion.decisions, decisions["truth"]).to_json(),
        }
        if who == "baseline":
            told[who]["gains"] = recall_gains(result.metrics, opinion.metrics, names)
    if not told:
        return result
    if watch.joint is None:
        decisions["student"] = ours
    else:
        decisions |= {name: watch.decisions[name] for name in result.heads} | {"both": ours}
    told["disagreement"] = disagreement(decisions)
    return replace(result, distillation=told)


@dataclass(frozen=True)
class Opinion:
    """What somebody beside the student says. decisions: (N,) class indices, in the source's order."""

    metrics: MetricAccumulator
    decisions: Decisions


def ask(
    members: Sequence[Member],
    source: ImageSource,
    num_classes: int,
    *,
    batch_size: int,
    workers: int,
    device: str,
    precision: str,
    stop: Callable[[], bool] | None = None,
) -> Opinion:
    """Let a teacher (one model, or the mean of several models' probabilities) classify every picture.

    Each model gets the decoded picture prepared by its own contract, as `isopatch eval` of it does.
    Raises `Interrupted` when `stop` says so, IsopatchError naming the picture where an output is not finite.
    """
    metrics = MetricAccumulator(num_classes)
    decisions = np.empty(len(source), np.int64)
    with contextlib.ExitStack() as stack:
        streams = []
        for member in members:
            stack.enter_context(evaluation_mode(member.model.to(device)))
            batches = eval_batches(
                source, member.model.spec.input, batch_size=batch_size, workers=workers, memory_limit_mb=0
            )
            streams.append(stack.enter_context(contextlib.closing(batches)))
        for views in zip(*streams, strict=True):
            if stop is not None and stop():
                raise Interrupted
            with torch.no_grad():
                outputs = [
                    _logits(member, view.images, device=device, precision=precision)
                    for member, view in zip(members, views, strict=True)
                ]
                together = mean_of(outputs).cpu().numpy()
            indices = views[0].indices.numpy()

            def name(row: int, indices: NDArray[np.int64] = indices) -> str:
                return f"{printable(source.name(int(indices[row])))}, {printable(members[0].source)}"

            decisions[indices] = metrics.update(together, views[0].labels.numpy(), name=name)[0]
    return Opinion(metrics, decisions)


class TokenCosine:
    """Cosine of a model's class token and distillation token, by depth, as the mean over pictures.

    Measured are the two vectors of each picture's sequence: by_depth[0] as they enter the first block, their
    position entries added; by_depth[i] as they leave block i; after_norm behind the final norm, where the
    heads read them. learned is the cosine of the two bare parameters, which are the same for every picture.
    DeiT (section 4) reports 0.06 for the tokens at the input and 0.93 at the last layer, 0.999 for a second
    class token in place of the distillation token; it does not say whether with positions and before or
    after the norm.
    """

    def __init__(self, model: Isotropic) -> None:
        """model: with a class token, then a distillation token."""
        assert model.prefix is not None
        assert model.prefix.dist_token is not None
        self._model = model
        self._images = 0
        self._sums: list[Tensor] = []
        bare = F.cosine_similarity(model.prefix.cls_token.double(), model.prefix.dist_token.double(), dim=-1)
        self._learned = float(bare.item())

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return what `model(images, heads=True)` does, and look at the tokens on the way."""
        sums = []
        tokens = torch.empty(0)
        for features in self._model.features_by_depth(images):
            tokens = features.tokens
            sums.append(_cosines(tokens).sum())
        final, pooled = self._model.pool(tokens, self._model.norm)
        sums.append(_cosines(final).sum())
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._sums else sums
        self._images += len(images)
        return self._model.head_logits(pooled)

    def to_json(self) -> dict[str, Any]:
        """Return learned, by_depth and after_norm."""
        means = [float(total.item()) / self._images for total in self._sums]
        return {"learned": self._learned, "by_depth": means[:-1], "after_norm": means[-1]}


class _Watch:
    """Follows the student's evaluation: decisions, tokens, and the mean of its heads' probabilities.

    decisions: per head, and under None of what the model returns. joint: None with one head.
    """

    def __init__(self, model: Classifier, num_images: int, num_classes: int) -> None:
        self._model = model
        two = set(model.heads) == {"cls", "dist"}
        self.joint = MetricAccumulator(num_classes) if two else None
        tokens = isinstance(model, Isotropic) and model.prefix is not None
        self.cosine = TokenCosine(model) if two and tokens else None  # type: ignore[arg-type]
        voters: tuple[str | None, ...] = (None, *(model.heads if two else ()))
        self.decisions = {voter: np.empty(num_images, np.int64) for voter in voters}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The student's heads, (B, K) each."""
        if self.cosine is not None:
            return self.cosine.heads(images)
        heads: dict[str, Tensor] = self._model(images, heads=True)
        return heads

    def see(self, batch: EvalBatch, logits: Mapping[str | None, NDArray[np.float32]]) -> None:
        """Keep what was decided about a batch."""
        for voter, decided in self.decisions.items():
            decided[batch.indices.numpy()] = logits[voter].argmax(axis=1)
        if self.joint is not None:
            logs = [softmax(logits[head].astype(np.float64))[1] for head in self.decisions if head]
            mean = np.logaddexp.reduce(logs, axis=0) - np.log(len(logs))
            self.joint.update(mean, batch.labels.numpy())


def _logits(member: Member, images: Tensor, *, device: str, precision: str) -> Tensor:
    with autocast(device, precision):
        logits: Tensor = member.model(images.to(device, non_blocking=True)).float()
    return logits if member.columns is None else logits[:, member.columns.to(logits.device)]


def _cosines(tokens: Tensor) -> Tensor:
    """(B,) cosines of the first two tokens of sequences (B, N, C), in float64."""
    return F.cosine_similarity(tokens[:, 0].double(), tokens[:, 1].double(), dim=-1)


def _figures(metrics: MetricAccumulator) -> dict[str, float | int]:
    scalars = metrics.scalars()
    return {key: scalars[key] for key in KEPT}
