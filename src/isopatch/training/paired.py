"""Several models' decisions about the same pictures: exact counts of where they differ. NumPy only.

Decisions are (N,) class indices of N pictures, all in one class order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isopatch.training.metrics import MetricAccumulator

Decisions = NDArray[np.int64]


def disagreement(decisions: Mapping[str, Decisions]) -> dict[str, Any]:
    """Return in how many pictures every two of the voters decide differently (DeiT, Table 4).

    Keys: voters, differing [voter][voter] (pictures), rates (the same as fractions), num_images. The row of
    a voter that is the truth holds error rates.
    """
    voters = list(decisions)
    images = len(decisions[voters[0]])
    counts = [[int((decisions[a] != decisions[b]).sum()) for b in voters] for a in voters]
    return {
        "voters": voters,
        "num_images": images,
        "differing": counts,
        "rates": [[count / images for count in row] for row in counts],
    }


@dataclass(frozen=True)
class Paired:
    """Who is right about how many pictures: the student, another model, both or neither."""

    both_right: int
    only_student: int
    only_other: int
    both_wrong: int

    @property
    def num_images(self) -> int:
        """All pictures."""
        return self.both_right + self.only_student + self.only_other + self.both_wrong

    def to_json(self) -> dict[str, Any]:
        """Return the four counts, better (more right answers), difference (of top-1) and p_value."""
        return {
            **asdict(self),
            "better": self.only_student > self.only_other,
            "difference": (self.only_student - self.only_other) / self.num_images,
            "p_value": mcnemar(self.only_student, self.only_other),
        }


def paired(student: Decisions, other: Decisions, truth: Decisions) -> Paired:
    """Compare two models picture by picture."""
    ours, theirs = student == truth, other == truth
    return Paired(
        both_right=int((ours & theirs).sum()),
        only_student=int((ours & ~theirs).sum()),
        only_other=int((~ours & theirs).sum()),
        both_wrong=int((~ours & ~theirs).sum()),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (McNemar 1947), accurate to about 1e-10.

    How probable a split at least this uneven is among the pictures that one model alone has right, were each
    as likely to be the first's as the second's: a binomial distribution with p = 1/2.
    """
    trials = only_first + only_second
    constant = math.lgamma(trials + 1) - trials * math.log(2)
    tail = math.fsum(
        math.exp(constant - math.lgamma(hits + 1) - math.lgamma(trials - hits + 1))
        for hits in range(min(only_first, only_second) + 1)
    )
    return min(1.0, 2 * tail)


def recall_gains(
    student: MetricAccumulator, baseline: MetricAccumulator, names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return name, support, recall, baseline and gain (their difference) per class that has pictures."""
    rows = zip(student.per_class(names), baseline.per_class(names), strict=True)
    return [
        {
            "name": ours["name"],
            "support": ours["support"],
            "recall": ours["recall"],
            "baseline": theirs["recall"],
            "gain": ours["recall"] - theirs["recall"],
        }
        for ours, theirs in rows
        if ours["support"]
    ]
