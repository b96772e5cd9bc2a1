"""A teacher's answers as bytes: every logit in float32, or the largest log-probabilities in float16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

EXACT_CLASSES = 64  # up to so many every logit is kept as it is: 256 bytes a picture at most
FEWEST_KEPT = 4


@dataclass(frozen=True)
class AnswerCoding:
    """How answers of (B, K) logits are kept.

    kept: how many per picture. temperature: the softening under which the rest, told as one number, keeps its
    share of the probability; None: all K are kept, in float32, and nothing is lost.
    """

    num_classes: int
    kept: int
    temperature: float | None

    def size(self, pictures: int) -> int:
        """Bytes of the answers about so many pictures."""
        if self.temperature is None:
            return 4 * self.num_classes * pictures
        return ((self._index_type.itemsize + 2) * self.kept + 2) * pictures

    def encode(self, logits: Tensor) -> bytes:
        """Answers (B, K) as bytes."""
        logits = logits.float().contiguous()
        if self.temperature is None:
            return logits.numpy().astype("<f4").tobytes()
        kept, places = F.log_softmax(logits, dim=-1).topk(self.kept, dim=-1)
        rest = F.log_softmax(logits, dim=-1).scatter(-1, places, -torch.inf)
        # One number for each of the rest, so that together they weigh what they did at this temperature.
        share = (rest / self.temperature).logsumexp(dim=-1)
        each = self.temperature * (share - np.log(self.num_classes - self.kept))
        values = torch.cat((kept, each[:, None]), dim=-1)
        return (
            places.numpy().astype(self._index_type).tobytes()
            + values.clamp(min=-60000.0).numpy().astype("<f2").tobytes()
        )

    def decode(self, body: bytes, pictures: int) -> Tensor:
        """Bytes as answers (B, K) float32: the logits, or log-probabilities where some were left out."""
        if self.temperature is None:
            exact = np.frombuffer(body, "<f4").reshape(pictures, self.num_classes)
            return torch.from_numpy(exact.astype(np.float32))
        end = self._index_type.itemsize * self.kept * pictures
        places = np.frombuffer(body[:end], self._index_type).reshape(pictures, self.kept)
        values = np.frombuffer(body[end:], "<f2").reshape(pictures, self.kept + 1).astype(np.float32)
        # The first is the largest: where float16 made it equal to others, it still is what is decided for.
        values[:, 0] = np.nextafter(values[:, 0], np.float32(np.inf))
        answers = np.repeat(values[:, -1:], self.num_classes, axis=1)
        np.put_along_axis(answers, places.astype(np.int64), values[:, :-1], axis=1)
        return torch.from_numpy(answers)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the inverse of `from_json`."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> AnswerCoding:
        """Rebuild what `to_json` gave."""
        return cls(**values)

    def loss_moved(self, logits: Tensor) -> float:
        """How far this coding of answers (B, K) moves the soft loss, as a share of a blind student's loss.

        The loss is tau^2 KL(teacher || student) at the coding's temperature, a mean over B; the blind student
        gives every class the same probability. The larger of its own error and of that of a student who
        equals the teacher. On all students between them (the teacher's answers, softened further) the error
        is no larger: it is linear in log q, which is t times the teacher's up to a constant, t in [0, 1].
        """
        if self.temperature is None:
            return 0.0
        decoded = self.decode(self.encode(logits), len(logits))
        before, after = ((t.double() / self.temperature).log_softmax(dim=-1) for t in (logits, decoded))
        entropy, entropy_after = (-(t.exp() * t).sum(dim=-1) for t in (before, after))
        blind = (entropy - entropy_after).mean().abs()
        equal = (after.exp() * (after - before)).sum(dim=-1).mean()
        whole = (np.log(self.num_classes) - entropy).mean().clamp(min=1e-9)
        return float(torch.maximum(blind, equal) / whole)

    def __str__(self) -> str:
        """In words."""
        if self.temperature is None:
            return f"all {self.num_classes} logits in float32"
        return f"the {self.kept} largest of {self.num_classes} logits in float16"

    @property
    def _index_type(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.num_classes <= 65536 else "<u4")


def exact_coding(num_classes: int) -> AnswerCoding:
    """Every logit, as it is."""
    return AnswerCoding(num_classes, num_classes, None)


def choose_coding(logits: Tensor, *, temperature: float, top_k: int | None, tolerance: float) -> AnswerCoding:
    """Return the smallest coding of answers like `logits` (B, K).

    top_k: keep so many. None: all where there are few classes, else the first of 4, 8, 16, ... that moves the
    soft loss by at most `tolerance` (`AnswerCoding.loss_moved`).
    """
    classes = logits.shape[1]
    if top_k is None and classes <= EXACT_CLASSES:
        return exact_coding(classes)
    if top_k is not None:
        return exact_coding(classes) if top_k >= classes else AnswerCoding(classes, top_k, temperature)
    kept = FEWEST_KEPT
    while 2 * kept < classes:  # beyond, all of them in full are hardly larger
        coding = AnswerCoding(classes, kept, temperature)
        if coding.loss_moved(logits) <= tolerance:
            return coding
        kept *= 2
    return exact_coding(classes)
