"""Tables of results made by hand, without training anything."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass(frozen=True)
class Claim:
    claim: str
    better: Mapping[str, Any]
    worse: Mapping[str, Any]
    expect: str = "greater"
    margin: float | None = None
    metric: str = "top1"
    source: str | None = "Table 1"


@dataclass(frozen=True)
class Design:
    factor_levels: Mapping[str, Mapping[str, Any]]
    hypotheses: Sequence[Claim] = field(default_factory=list)


def make_rows(
    levels: Mapping[str, Sequence[str]],
    top1: Callable[..., float],
    seeds: Sequence[int] = (0, 1, 2),
    **columns: Any,
) -> list[dict[str, Any]]:
    """A row for every combination of levels and seed; top1 takes the levels and `seed` by name."""
    rows = []
    for combination in itertools.product(*levels.values()):
        cell = dict(zip(levels, combination, strict=True))
        name = "_".join(f"{factor}-{level}" for factor, level in cell.items())
        for seed in seeds:
            rows.append(
                {
                    "run": f"{name}-seed{seed}",
                    "cell": name,
                    **{f"factor.{factor}": level for factor, level in cell.items()},
                    "seed": seed,
                    "top1": top1(**cell, seed=seed),
                    "val_top1": 0.5,
                    "split": "test",
                    "parameters": 1000,
                    "macs": 2000,
                    "training_flops": 3.0e9,
                    "seconds": 4.0,
                    "images_per_second": 500.0,
                    "hardware": "a machine",
                    "threads": 1,
                    **columns,
                }
            )
    return rows


@pytest.fixture
def claim():
    return Claim


@pytest.fixture
def design():
    return Design


@pytest.fixture
def rows_of():
    return make_rows
