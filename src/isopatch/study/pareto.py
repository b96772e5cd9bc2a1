"""Pareto fronts: what nothing else beats in accuracy and cost at once."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(gains: Sequence[float], costs: Sequence[float]) -> list[int]:
    """Return the indices of the points that no other point dominates, from the cheapest to the dearest.

    A point dominates another when it gains at least as much at no more cost, and one of the two is strict.
    Points that are equal in both are all on the front.
    """
    if len(gains) != len(costs):
        raise ValueError(f"{len(gains)} gains and {len(costs)} costs")
    front: list[int] = []
    best = float("-inf")
    order = sorted(range(len(gains)), key=lambda index: (costs[index], -gains[index]))
    for place, index in enumerate(order):
        twin = front and place and gains[index] == best and costs[index] == costs[front[-1]]
        if gains[index] > best or twin:
            front.append(index)
            best = gains[index]
    return front
