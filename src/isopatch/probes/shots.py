"""Which training pictures a few-shot probe sees: the same number of each class, nested, drawn by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isopatch.data.seeding import derive_seed
from isopatch.errors import UsageError

Indices = NDArray[np.int64]

HELD_OUT = 20  # pictures of each class, at most, that choose an L2 strength


@dataclass(frozen=True)
class Draw:
    """One random order of the pictures of every class; the first s of each are its s shots.

    order: class -> (n,) indices of its pictures.
    """

    seed: int
    order: tuple[Indices, ...]

    def shots(self, number: int) -> Indices:
        """Return `number` pictures of every class, class by class, each class in its order."""
        return np.concatenate([members[:number] for members in self.order])

    def held_out(self, most_shots: int) -> Indices:
        """Return up to 20 pictures of every class that no number of shots up to `most_shots` contains."""
        parts = [members[max(most_shots, len(members) - HELD_OUT) :] for members in self.order]
        return np.concatenate(parts)


def draw(labels: Indices, classes: Sequence[str], seed: int, *, most_shots: int) -> Draw:
    """Put the pictures of every class in an order that depends on the seed, its name and its size alone.

    labels: (N,) into `classes`. The order comes from an integer hash, not from a library's random generator,
    whose stream may change with its version. More shots contain the fewer ones. Raises UsageError where a
    class has fewer pictures than `most_shots`.
    """
    order = []
    for number, name in enumerate(classes):
        members = np.flatnonzero(labels == number).astype(np.int64)
        if len(members) < most_shots:
            raise UsageError(
                f"--shots {most_shots}: class '{name}' has {len(members)} training pictures; give fewer shots"
            )
        keys = np.array([derive_seed("shots", seed, name, place) for place in range(len(members))], np.uint64)
        order.append(members[np.argsort(keys, kind="stable")])
    return Draw(seed, tuple(order))
