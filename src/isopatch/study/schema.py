"""What a study.yaml may say: typed, frozen, every unknown key refused. Imports no torch.

What depends on several keys (is a level known? does a reference lead anywhere?) is checked in `check.py`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from isopatch.training.node import Node, NonNegative, Positive

Settings = dict[str, Any]
Levels = dict[str, str]  # factor -> level name: a cell, or a part of one
BEST = "@best"  # in a hypothesis: the level that validation chose
MOST_SEEDS = 100_000  # a slip otherwise
HELD = ("epochs", "images", "seconds", "training_flops")


class Equal(Node):
    """What every run of the study gets the same amount of: exactly one of these.

    epochs: passes over the run's own training pictures. images: pictures seen. seconds: of training, turned
    into steps by a short measurement. training_flops: 2 x 3 x MACs x pictures seen.
    """

    epochs: Positive | None = None
    images: Positive | None = None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    training_flops: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(getattr(self, key) is not None for key in HELD) != 1:
            raise ValueError(f"give exactly one of {', '.join(HELD)}")
        return self

    @property
    def kind(self) -> str:
        """Which of them."""
        return next(key for key in HELD if getattr(self, key) is not None)

    @property
    def amount(self) -> float:
        """How much of it."""
        return float(getattr(self, self.kind))


class Match(Node):
    """Equal parameters: `solve` is changed, in steps of `multiple_of`, until a cell has its reference's.

    parameters: tolerance, a share. like: the levels of the reference; a cell's own other levels complete it.
    """

    parameters: Annotated[float, Field(gt=0, le=0.5)] = 0.02
    solve: str = "model.dim"
    multiple_of: Positive = 8
    like: dict[str, Any]


class Hypothesis(Node):
    """A claim that is tested: runs at `better` against runs at `worse`, paired by seed and other factors."""

    claim: str
    better: dict[str, Any]
    worse: dict[str, Any]
    expect: Literal["greater", "equal", "less"] = "greater"
    margin: NonNegative | None = None
    metric: str = "top1"
    source: str | None = None

    @field_validator("better", "worse")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> Levels:
        return named(value)

    @model_validator(mode="after")
    def _margin(self) -> Self:
        if (self.expect == "equal") != (self.margin is not None):
            raise ValueError("margin belongs to expect: equal, which needs one")
        return self


class Study(Node):
    """A declared set of runs that differ in the stated factors only."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    question: str
    paper: str | None = None
    base: Settings = Field({})
    factors: dict[str, list[Any] | dict[Any, Any]] = Field({})
    cells: list[dict[str, Any]] | None = None
    exclude: list[dict[str, Any]] = Field([])
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] | list[Annotated[int, Field(ge=0)]] = 3
    equal: Equal
    match: Match | None = None
    before: dict[str, Settings] = Field({})
    probes: list[Literal["few-shot", "knn", "logistic", "ridge", "linear"]] = Field([])
    hypotheses: list[Hypothesis] = Field([])

    @property
    def seed_list(self) -> list[int]:
        """The seeds of every cell."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)

    @cached_property
    def factor_levels(self) -> dict[str, dict[str, Settings]]:
        """Factor -> level name -> what it sets, shortcuts not yet expanded."""
        found: dict[str, dict[str, Settings]] = {}
        for factor, levels in self.factors.items():
            if isinstance(levels, dict):
                found[factor] = {
                    level_name(name): value if isinstance(value, dict) else {factor: value}
                    for name, value in levels.items()
                }
            else:
                found[factor] = {level_name(value): {factor: value} for value in levels}
        return found


def level_name(value: Any) -> str:
    """Return what a level is called: 5 -> "5", true -> "true", null -> "none", [32, 48] -> "32x48"."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return "x".join(level_name(item) for item in value)
    return str(value)


def named(levels: dict[Any, Any]) -> Levels:
    """Return a cell, or a part of one, with names for levels."""
    return {str(factor): level_name(value) for factor, value in levels.items()}
