"""k nearest neighbours by cosine, each weighted by its similarity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TEMPERATURE = 0.07  # Wu et al. 2018, section 3.4; DINO (Caron et al. 2021) keeps it
_CHUNK = 256  # test pictures compared at a time: 256 x N similarities in memory

Labels = NDArray[np.int64]


def unit(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return (N, C) of length 1; a zero vector stays zero, at right angles to everything."""
    x = np.asarray(features, np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return scaled


def predict(
    train: NDArray[np.floating],
    labels: Labels,
    test: NDArray[np.floating],
    *,
    num_classes: int,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
) -> dict[int, Labels]:
    """Return k -> (M,) predicted classes of test features (M, C) from train features (N, C).

    Each of the k most similar training pictures votes for its class with exp(cosine / temperature); of equal
    sums the first class wins, of equally similar pictures the first ones count, whatever other k are asked
    for. Raises ValueError for a k outside 1..N.
    """
    if min(ks) < 1 or max(ks) > len(train):
        raise ValueError(f"k {sorted(ks)}: each must lie in 1..{len(train)}")
    known, most = unit(train), max(ks)
    parts: dict[int, list[Labels]] = {k: [] for k in ks}
    for start in range(0, len(test), _CHUNK):
        # Rounded: equal pictures are equally similar, wherever in the product they stand.
        similarity = np.round(unit(test[start : start + _CHUNK]) @ known.T, 12)
        nearest = _nearest(similarity, most)
        near = np.take_along_axis(similarity, nearest, axis=1)
        weight = np.exp((near - near[:, :1]) / temperature)  # relative to the nearest: nothing overflows
        for k in ks:
            votes = np.zeros((len(near), num_classes))
            rows = np.repeat(np.arange(len(near)), k)
            np.add.at(votes, (rows, labels[nearest[:, :k]].ravel()), weight[:, :k].ravel())
            parts[k].append(votes.argmax(axis=1).astype(np.int64))
    return {k: np.concatenate(part) for k, part in parts.items()}


def _nearest(similarity: NDArray[np.float64], most: int) -> NDArray[np.intp]:
    """Return (M, most) indices of the largest of (M, N), the largest first, of equal ones the first."""
    found = np.sort(np.argpartition(-similarity, most - 1, axis=1)[:, :most], axis=1)
    near = np.take_along_axis(similarity, found, axis=1)
    order = np.argsort(-near, axis=1, kind="stable")
    nearest: NDArray[np.intp] = np.take_along_axis(found, order, axis=1)
    # Where more are as similar as the last of them, which of those were found is the partition's whim.
    parted = np.flatnonzero((similarity >= near.min(axis=1, keepdims=True)).sum(axis=1) > most)
    for row in parted:
        nearest[row] = np.argsort(-similarity[row], kind="stable")[:most]
    return nearest
