"""A plan: every run of a study, resolved, with what it costs; and back from plan.json. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isopatch.errors import IsopatchError
from isopatch.study.references import replaced
from isopatch.study.schema import Levels, Study
from isopatch.training.config import HARMLESS, RunConfig

FORMAT = "isopatch-study-plan-1"
FLOPS_PER_MAC = 2 * 3  # a multiply-add is two; the backward pass costs twice the forward


@dataclass(frozen=True)
class PlannedRun:
    """One run. Its identity is `config`, in which "@name" stands for the run of that name and its seed.

    cell: the cell's name, or "before-<name>". levels: factor -> level; empty for a `before` run.
    needs: names of `before` runs to ids: they must be finished first. images: seen in the whole run.
    images_per_second: measured over a few steps; None where nothing was measured.
    """

    id: str
    cell: str
    levels: Levels
    seed: int
    config: dict[str, Any]
    needs: dict[str, str]
    before: bool
    model: str
    parameters: int
    macs: int
    steps: int
    images: int
    train_images: int
    data_fingerprint: str
    images_per_second: float | None = None

    @property
    def training_flops(self) -> int:
        """Of the student's own forward and backward passes; a teacher's are not in it."""
        return FLOPS_PER_MAC * self.macs * self.images

    @property
    def hours(self) -> float | None:
        """Estimated, evaluations not included."""
        return None if not self.images_per_second else self.images / self.images_per_second / 3600

    def run_config(self, folder: Path) -> RunConfig:
        """The configuration to train with: references are the paths of the runs they stand for."""
        return RunConfig.model_validate(
            replaced(self.config, lambda name: str(run_path(folder, self.needs[name]).absolute()))
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with what follows from the rest."""
        return {**asdict(self), "training_flops": self.training_flops, "hours": self.hours}


@dataclass(frozen=True)
class Plan:
    """The runs of a study, `before` runs first. threads: of every run that says nothing else."""

    study: Study
    runs: tuple[PlannedRun, ...]
    threads: int | None = None
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[PlannedRun]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def by_id(self) -> dict[str, PlannedRun]:
        """Every run by its id."""
        return {run.id: run for run in self.runs}

    @property
    def digest(self) -> str:
        """SHA-256 over what decides the results: ids and configurations, not speeds and places."""
        text = json.dumps([[run.id, identity(run.config)] for run in sorted(self.runs, key=lambda r: r.id)])
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The content of plan.json."""
        return {
            "format": FORMAT,
            "study": self.study.name,
            "question": self.study.question,
            "equal": {self.study.equal.kind: self.study.equal.amount},
            "threads": self.threads,
            "digest": self.digest,
            "notes": list(self.notes),
            "declared": self.study.model_dump(mode="json", exclude_defaults=True),
            "runs": [run.to_json() for run in self.runs],
        }


def read_plan(document: Mapping[str, Any], where: Path) -> Plan:
    """Return the plan that `to_json` wrote; raises IsopatchError where it is damaged."""
    fields = PlannedRun.__dataclass_fields__
    try:
        if document["format"] != FORMAT:
            raise IsopatchError(f"{where}: format {document['format']!r}, not {FORMAT}; {again(where)}")
        runs = tuple(PlannedRun(**{key: run[key] for key in fields}) for run in document["runs"])
        study = Study.model_validate(document["declared"])
        plan = Plan(study, runs, document["threads"], tuple(document["notes"]))
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise IsopatchError(f"{where}: damaged ({error!r}); {again(where)}") from None
    if document["digest"] != plan.digest:
        raise IsopatchError(f"{where}: was edited: its digest is another one; {again(where)}")
    return plan


def again(where: Path) -> str:
    """What to do about a plan that cannot be read."""
    return f"delete it, and 'isopatch study run {where.parent}' plans again and keeps what is finished"


def with_speeds(plan: Plan, speeds: Mapping[str, float]) -> Plan:
    """Return the plan with measured speeds per cell."""
    runs = (replace(r, images_per_second=speeds.get(r.cell, r.images_per_second)) for r in plan.runs)
    return replace(plan, runs=tuple(runs))


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without what changes nothing about the weights."""
    result = {}
    for key, value in config.items():
        if key in HARMLESS:
            continue
        if isinstance(value, Mapping):
            result[key] = {k: v for k, v in value.items() if f"{key}.{k}" not in HARMLESS}
        else:
            result[key] = value
    return result


def run_path(folder: Path, run: str) -> Path:
    """Where a run of a study lies."""
    return folder / "runs" / run
