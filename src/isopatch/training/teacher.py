"""The teacher: trained weights that look at the student's pictures in their own way.

A teacher is always in eval mode and never trained. It sees the student's view (augmented, mixed), normalised
and sized as its own input contract says, and speaks in the classes of the data, in their order.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.errors import IsopatchError, UsageError
from isopatch.image.contract import InputContract
from isopatch.image.names import printable
from isopatch.models.load import load_for_pictures
from isopatch.models.spec import resolve
from isopatch.nn.classifier import Classifier
from isopatch.training.evaluate import autocast
from isopatch.training.runfolder import RunFolder

log = logging.getLogger("isopatch")


@dataclass(frozen=True)
class Member:
    """One model of a teacher. columns: its outputs that are the data's classes, in their order; None: all."""

    model: Classifier
    columns: Tensor | None
    source: str


class Teacher:
    """One model, or several whose probabilities are averaged.

    student: the contract of the pictures that `logits` gets. precision: "fp32", "bf16" or "fp16".
    """

    def __init__(
        self, members: Sequence[Member], *, student: InputContract, device: str, precision: str
    ) -> None:
        """Move the models to the device and fix them."""
        assert members
        self.members = tuple(members)
        self._student = student
        self._device = device
        self._precision = precision
        for member in self.members:
            member.model.to(device).eval().requires_grad_(False)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over everything the answers depend on: models, weights, chosen outputs."""
        digest = hashlib.sha256()
        for member in self.members:
            digest.update(json.dumps(member.model.spec.to_json(), sort_keys=True).encode())
            columns = None if member.columns is None else member.columns.tolist()
            digest.update(json.dumps(columns).encode())
            for name, tensor in member.model.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return (B, K) float32 logits for the student's pictures (B, 3, H, W), normalised for the student.

        Of several models: the logarithm of the mean of their probabilities.
        """
        outputs: list[Tensor] = []
        for member in self.members:
            seen = as_seen_by(images, self._student, member.model.spec.input)
            with autocast(self._device, self._precision):
                logits: Tensor = member.model(seen).float()
            outputs.append(_chosen(logits, member))
        return mean_of(outputs)

    @torch.no_grad()
    def logits_and_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the only model's logits (B, K) and feature map (B, C, h, w), from one pass."""
        (member,) = self.members
        seen = as_seen_by(images, self._student, member.model.spec.input)
        with autocast(self._device, self._precision):
            features, pooled = member.model.encode(seen)
            logits = torch.stack(list(member.model.head_logits(pooled).values())).mean(dim=0)
        return _chosen(logits.float(), member), features.map.float()


def open_teacher(
    sources: str, classes: Sequence[str], *, student: InputContract, device: str, precision: str
) -> Teacher:
    """Open one teacher, or several separated by commas; each is `SOURCE` or `NAME=FILE` for a bare file.

    classes: of the data. Raises UsageError where a source has no trained weights or not these classes.
    """
    return Teacher(open_members(sources, classes), student=student, device=device, precision=precision)


def open_members(sources: str, classes: Sequence[str], *, setting: str = "distill.teacher") -> list[Member]:
    """Open the models of `open_teacher`; setting: what gave the sources, for messages."""
    members = []
    for source in split_sources(sources, setting=setting):
        try:
            name, where = named_file(source)
            _require_finished(Path(where))
            model = load_for_pictures(where, name=name)
        except IsopatchError as error:
            raise UsageError(f"{setting}: {error}{_advice(source)}") from None
        members.append(Member(model, _columns(model, classes, source, setting), source))
    return members


def _require_finished(folder: Path) -> None:
    """Refuse a run that stopped on the way: what it holds by chance was trained for a step or for a week."""
    status = RunFolder(folder).read_json("status.json") if (folder / "status.json").is_file() else None
    if status is not None and status.get("state") != "finished":
        raise UsageError(
            f"{folder} stopped at step {status.get('step')} of {status.get('total_steps')}: finish it "
            f"(isopatch train --resume {folder}), or give the checkpoint that is meant "
            f"({folder / 'checkpoints' / 'last'})"
        )


def _advice(source: str) -> str:
    """What else helps where a bare file could not be opened."""
    name, equals, file = source.partition("=")
    path = Path(file if equals else source)
    if not path.is_file():
        return ""
    if not equals:
        return f"; a file that does not say which model it holds is given as NAME=FILE: NAME={source}"
    return (
        f"; a model with other arguments is converted first: isopatch convert {file} DIR --to isopatch "
        f"--model {name} --model.ARGUMENT VALUE, then DIR is the teacher"
    )


def _chosen(logits: Tensor, member: Member) -> Tensor:
    return logits if member.columns is None else logits[:, member.columns.to(logits.device)]


def mean_of(outputs: Sequence[Tensor]) -> Tensor:
    """Return one model's logits (B, K) as they are, of several the logarithm of the mean probabilities."""
    if len(outputs) == 1:
        return outputs[0]
    return torch.stack([F.log_softmax(logits, dim=-1) for logits in outputs]).logsumexp(dim=0)


def split_sources(sources: str, *, setting: str = "distill.teacher") -> list[str]:
    """Take "a,b" apart; an empty part raises UsageError. What exists as it is written is one source."""
    if Path(sources).exists() or Path(sources.partition("=")[2] or ".").is_file():
        return [sources]
    parts = [part.strip() for part in sources.split(",")]
    if not all(parts):
        raise UsageError(f"{setting} '{sources}': a source is missing beside a comma")
    return parts


def named_file(source: str) -> tuple[str | None, str]:
    """Split `NAME=FILE`; anything else has no name."""
    name, equals, file = source.partition("=")
    if not equals or "/" in name or Path(source).exists():
        return None, source
    return resolve(name).name, file


def as_seen_by(images: Tensor, student: InputContract, teacher: InputContract) -> Tensor:
    """Turn pictures (B, 3, H, W) normalised for the student into what the teacher expects.

    The view stays the student's: nothing is cropped; another size is reached by resampling.
    """
    if (student.mean, student.std) != (teacher.mean, teacher.std):

        def per_channel(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)

        pixels = images * per_channel(student.std) + per_channel(student.mean)
        images = (pixels - per_channel(teacher.mean)) / per_channel(teacher.std)
    size = (teacher.height, teacher.width)
    if images.shape[2:] != size:
        images = F.interpolate(images, size=size, mode=teacher.interpolation, antialias=True)
    return images


def _columns(model: Classifier, classes: Sequence[str], source: str, setting: str) -> Tensor | None:
    """Which outputs of a teacher are the data's classes; None where they are all of them, in order."""
    own = model.spec.classes
    count = int(model.spec.arguments["num_classes"])
    if own is None:
        if count != len(classes):
            raise UsageError(
                f"{setting}: {source} has {count:,} classes without names, the data has "
                f"{len(classes)}: give a teacher of these classes (train one with isopatch train, or "
                f"--teacher auto)"
            )
        log.warning(
            "the teacher %s does not name its classes; its %d outputs are taken in the order of the data's",
            source,
            count,
        )
        return None
    if tuple(own) == tuple(classes):
        return None
    twice = sorted({name for name in classes if own.count(name) > 1})
    if twice:
        raise UsageError(
            f"{setting}: {source} has {own.count(twice[0])} classes named {printable(twice[0])}, and nothing "
            f"tells which is the data's; give a teacher whose class names differ"
        )
    place = {name: index for index, name in enumerate(own)}
    unknown = [printable(name) for name in classes if name not in place]
    if unknown:
        raise UsageError(
            f"{setting}: {source} does not know {len(unknown)} of the data's {len(classes)} classes "
            f"({', '.join(unknown[:4])}{', ...' if len(unknown) > 4 else ''}): give a teacher of these"
        )
    if len(own) > len(classes):
        log.info(
            "the teacher %s knows %d classes; its logits of the data's %d are taken, matched by name",
            source,
            len(own),
            len(classes),
        )
    return torch.tensor([place[name] for name in classes])
