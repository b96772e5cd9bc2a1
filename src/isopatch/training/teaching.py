"""What the teacher says at a step: asked now, or remembered from an earlier run."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isopatch.data.memory import KeptSource
from isopatch.data.seeding import derive_seed
from isopatch.data.source import ImageSource, state_of
from isopatch.errors import UsageError
from isopatch.image.contract import InputContract
from isopatch.nn.classifier import Classifier
from isopatch.training.cache_header import Pictures
from isopatch.training.config import RunConfig
from isopatch.training.distill_config import DistillConfig
from isopatch.training.hardware import Choices
from isopatch.training.projector import make_projector
from isopatch.training.teacher import Teacher, open_teacher
from isopatch.training.teacher_cache import TeacherCache, open_cache


class Teaching:
    """A teacher, with or without a cache of its answers.

    projector: maps the student's features to the teacher's channels, trained with the student; None without
    feature distillation. asked, seconds: pictures the teacher itself looked at in this run, and how long;
    remembered: those the cache answered.
    """

    def __init__(
        self, teacher: Teacher, *, cache: TeacherCache | None, accumulate: int, projector: nn.Module | None
    ) -> None:
        """cache: of exactly this teacher and these pictures; its answers are the only ones used then."""
        self.teacher = teacher
        self.cache = cache
        self.projector = projector
        self._accumulate = accumulate
        self._run = uuid.uuid4().hex[:12]  # whose costs these are, in the cache
        self.asked = 0
        self.remembered = 0
        self.seconds = 0.0

    def logits(self, images: Tensor, *, view: int, micro: int) -> Tensor:
        """Return (B, K) float32 logits for micro-batch `micro` of step `view`.

        With a cache what was just asked goes through its coding too: the first run learns the same as those
        that read. Answers that are not finite are returned and not kept: the step stops on them.
        """
        place = view * self._accumulate + micro
        if self.cache is not None:
            remembered = self.cache.read(place)
            if remembered is not None:
                self.remembered += len(images)
                return remembered.to(images.device)
        with self._timed(images):
            logits = self.teacher.logits(images)
        if self.cache is None or not bool(torch.isfinite(logits).all()):
            return logits
        return self.cache.write(place, logits.cpu()).to(images.device)

    def logits_and_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's logits (B, K) and feature map (B, C, h, w); never from the cache."""
        with self._timed(images):
            return self.teacher.logits_and_map(images)

    @contextlib.contextmanager
    def _timed(self, images: Tensor) -> Iterator[None]:
        """Count the pictures and the seconds; a GPU works on behind our back unless it is waited for."""
        _wait(images.device)
        started = time.monotonic()
        yield
        _wait(images.device)
        self.seconds += time.monotonic() - started
        self.asked += len(images)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, beside the projector: who teaches, and what that cost so far."""
        counts = {"asked": self.asked, "remembered": self.remembered, "seconds": self.seconds}
        return {"teacher": self.teacher.digest, "run": self._run, **counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; another teacher raises UsageError."""
        if state["teacher"] != self.teacher.digest:
            sources = ", ".join(member.source for member in self.teacher.members)
            raise UsageError(
                f"distill.teacher: {sources} is not what it was when the run started (other weights or "
                f"classes); restore it, or start afresh with another --out"
            )
        self.asked, self.remembered, self.seconds = (state[k] for k in ("asked", "remembered", "seconds"))
        self._run = state.get("run", self._run)  # absent from a run begun before it was kept

    def __str__(self) -> str:
        """What teaching cost, in words."""
        asked = f"the teacher was asked about {self.asked:,} pictures in {self.seconds:,.1f} s"
        return f"{asked}, the cache answered for {self.remembered:,}" if self.cache is not None else asked

    def to_json(self) -> dict[str, Any]:
        """What teaching cost and what the cache saved, for summary.json."""
        told: dict[str, Any] = {
            "pictures_asked": self.asked,
            "pictures_remembered": self.remembered,
            "teacher_seconds": self.seconds,
        }
        if self.cache is not None:
            told["cache"] = self.cache.report(
                self._run, remembered=self.remembered, asked=self.asked, seconds=self.seconds
            )
        return told


def open_teaching(
    config: RunConfig,
    choices: Choices,
    model: Classifier,
    train: ImageSource,
    *,
    steps_per_epoch: int,
) -> Teaching | None:
    """Return what `config.distill` asks for, or None without a teacher. train: the training pictures.

    Raises UsageError where the teacher cannot teach these classes, the student has not the token that is
    asked for, or the cache is of something else.
    """
    distill = config.distill
    if distill.teacher is None:
        return None
    require_heads(model, distill)
    student: InputContract = model.spec.input
    classes = train.classes
    # Whatever `kernels` says, the teacher stays plain: runs of several machines may fill and read one cache,
    # and kernels would change the last bits of its answers.
    teacher = open_teacher(
        distill.teacher, classes, student=student, device=choices.device, precision=choices.precision
    )
    cache = None
    if distill.cache is not None:
        cache = open_cache(
            config,
            teacher,
            classes=classes,
            student=student,
            precision=choices.precision,
            data_fingerprint=train.fingerprint,
            pictures=Pictures(train.digest() if isinstance(train, KeptSource) else None, state_of(train)),
            steps_per_epoch=steps_per_epoch,
        )
    projector = None
    if distill.feature_weight > 0:
        if len(teacher.members) > 1:
            raise UsageError("distill.feature_weight: feature maps of several teachers have no mean")
        torch.manual_seed(derive_seed(config.seed, "projector"))
        projector = make_projector(model, teacher.members[0].model).to(choices.device)
    return Teaching(teacher, cache=cache, accumulate=config.accumulate, projector=projector)


def require_heads(model: Classifier, distill: DistillConfig) -> None:
    """Refuse a token that the student lacks, one that is not wanted, and a head that nobody would teach."""
    name, has_token = model.spec.name, "dist" in model.heads
    if distill.token and not has_token:
        raise UsageError(
            f"distill.token: {name} has no distillation token; choose a distilled model (deit_*_distilled_*, "
            f"or --model deit --model.distilled true), or set distill.token false"
        )
    if distill.token is False and has_token:
        raise UsageError(
            f"distill.token false: {name} has a distillation token, whose head would learn nothing; choose "
            f"the model without it"
        )
    weights = distill.weights
    if weights.label == 0 and has_token:
        raise UsageError(
            f"distill.label_weight 0: the class head of {name} learns from the labels alone; choose a model "
            f"without a distillation token"
        )
    if weights.hard + weights.soft == 0 and (has_token or weights.label == 0):
        head = "distillation head" if has_token else "head"
        raise UsageError(
            f"distill.feature_weight alone: the {head} of {name} would learn nothing; give "
            + ("distill.hard_weight or soft_weight" if has_token else "distill.label_weight, too")
        )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
