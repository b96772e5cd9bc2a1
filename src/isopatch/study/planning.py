"""Planning: every cell and seed becomes a run with its exact configuration, size, length and cost."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from isopatch.errors import UsageError
from isopatch.models.architectures import architecture_function
from isopatch.models.arguments import check_against
from isopatch.models.spec import resolve as model_entry
from isopatch.study.cells import cells, slugs
from isopatch.study.check import inherited
from isopatch.study.costs import Costs, Facts, check_schedule, steps_of
from isopatch.study.match import solve_width
from isopatch.study.planned import Plan, PlannedRun
from isopatch.study.references import referred
from isopatch.study.resolving import (
    Template,
    before_template,
    cell_template,
    reference_order,
    solved_key,
)
from isopatch.study.schema import Levels, Study, named
from isopatch.training.config import RunConfig

log = logging.getLogger("isopatch")


class _Kind(NamedTuple):
    """Runs that differ in their seed alone: a cell's, or a `before` run's."""

    slug: str
    levels: Levels
    template: Template
    seeds: list[int]
    before: bool


def plan(
    study: Study, *, measure: bool = False, threads: int | None = None, former: Plan | None = None
) -> Plan:
    """Return every run of a study, resolved.

    measure: take a few steps of every cell for its speed, from which hours are estimated. Where seconds are
        held equal this is done in any case, because it decides the runs' lengths.
    threads: of every run that says nothing else. former: the plan that was begun: its speeds are kept.
    Raises UsageError with one line per problem, of all cells.
    """
    problems = _Problems()
    costs = Costs()
    former_speeds = {run.cell: run.images_per_second for run in former.runs} if former else {}
    speeds = {cell: speed for cell, speed in former_speeds.items() if speed is not None}
    kinds = _before_kinds(study, threads, problems)
    before = {kind.slug.removeprefix("before-"): kind.template for kind in kinds}
    if not problems:
        kinds += _cell_kinds(study, before, threads, costs, problems)
    problems.refuse()
    runs: list[PlannedRun] = []
    for kind in kinds:
        with problems.of(kind.slug):
            runs += _runs_of(kind, study, costs, speeds, measure)
    problems.refuse()
    return Plan(study, tuple(runs), threads, tuple(_notes(study, runs)))


def _before_kinds(study: Study, threads: int | None, problems: _Problems) -> list[_Kind]:
    kinds: list[_Kind] = []
    templates: dict[str, Template] = {}
    for name in reference_order(study):
        with problems.of(f"before-{name}"):
            templates[name] = before_template(study, name, templates, threads=threads)
            each = inherited(study, name)[1] == "each"
            seeds = study.seed_list if each else study.seed_list[:1]
            kinds.append(_Kind(f"before-{name}", {}, templates[name], seeds, True))
        if problems:  # what refers to it cannot be resolved
            break
    return kinds


def _cell_kinds(
    study: Study, before: Mapping[str, Template], threads: int | None, costs: Costs, problems: _Problems
) -> list[_Kind]:
    """Resolve every cell, then the widths that match their parameters."""
    wanted = cells(study)
    names = slugs(wanted)
    templates: dict[str, Template] = {}
    for cell, name in zip(wanted, names, strict=True):
        with problems.of(name):
            templates[name] = cell_template(study, cell, before, threads=threads)
    if study.match is not None and not problems:
        like = named(study.match.like)
        name_of = {tuple(sorted(cell.items())): name for cell, name in zip(wanted, names, strict=True)}
        counts: dict[str, int] = {}
        for cell, name in zip(wanted, names, strict=True):
            reference = name_of[tuple(sorted({**cell, **like}.items()))]
            if reference == name:
                continue
            with problems.of(name):
                if reference not in counts:
                    counts[reference] = costs.parameters(templates[reference].config)
                solved = _matched(study, templates[name].config, costs, counts[reference])
                templates[name] = cell_template(
                    study, cell, before, threads=threads, solved={solved_key(study): solved}
                )
    return [
        _Kind(name, cell, templates[name], study.seed_list, False)
        for cell, name in zip(wanted, names, strict=True)
        if name in templates
    ]


def _matched(study: Study, config: RunConfig, costs: Costs, target: int) -> int:
    assert study.match is not None
    argument = solved_key(study).removeprefix("model.")

    if problem := _no_width(study, config, argument):
        raise UsageError(f"match.solve: {problem}")

    def count(width: int) -> int | None:
        model = type(config.model).model_validate({**config.model.model_dump(), argument: width})
        try:
            return costs.parameters(config.model_copy(update={"model": model}))
        except UsageError:
            return None

    return solve_width(
        count,
        target,
        tolerance=study.match.parameters,
        multiple_of=study.match.multiple_of,
        key=study.match.solve,
    )


def _no_width(study: Study, config: RunConfig, argument: str) -> str | None:
    """Say why an argument of the model cannot be solved for: there is none, or it takes no number."""
    assert study.match is not None
    function = architecture_function(model_entry(config.model.name).architecture)
    arguments = {**config.model.arguments, argument: study.match.multiple_of}
    wrong = check_against(function, arguments, prefix="model.")
    found = next((line for line in wrong if line.startswith(f"model.{argument}:")), None)
    if found is None:
        return None
    known = argument in inspect.signature(function).parameters
    return f"model.{argument}: takes no whole number; give a width, as model.dim" if known else found


def _runs_of(
    kind: _Kind, study: Study, costs: Costs, speeds: dict[str, float], measure: bool
) -> list[PlannedRun]:
    """The runs of one cell, all of one length."""
    first = kind.template.seeded(kind.seeds[0])
    facts = costs.facts(first)
    steps = None
    needed = study.equal.kind == "seconds" and not kind.before
    if (measure or needed) and kind.slug not in speeds:
        log.info("measuring %s", kind.slug)
        speeds[kind.slug] = costs.speed(first)
    if not kind.before:
        steps = steps_of(study.equal, first, facts, speeds.get(kind.slug))
    runs = []
    for seed in kind.seeds:
        config = kind.template.seeded(seed)
        if steps is not None:
            config = config.model_copy(update={"steps": steps})
        seeded = costs.facts(config)
        check_schedule(config, seeded)
        runs.append(_planned(kind, study, config, seed, seeded, speeds.get(kind.slug)))
    return runs


def _planned(
    kind: _Kind, study: Study, config: RunConfig, seed: int, facts: Facts, speed: float | None
) -> PlannedRun:
    steps = config.total_steps(facts.steps_per_epoch)
    needs = {}
    for name in sorted(referred(config.weights) | referred(config.distill.teacher)):
        shared = inherited(study, name)[1] == "one"
        needs[name] = f"before-{name}-seed{study.seed_list[0] if shared else seed}"
    return PlannedRun(
        id=f"{kind.slug}-seed{seed}",
        cell=kind.slug,
        levels=kind.levels,
        seed=seed,
        config=config.model_dump(mode="json"),
        needs=needs,
        before=kind.before,
        model=config.model.name,
        parameters=facts.parameters,
        macs=facts.macs,
        steps=steps,
        images=steps * config.batch_size,
        train_images=facts.train_images,
        data_fingerprint=facts.fingerprint,
        images_per_second=speed,
    )


def _notes(study: Study, runs: list[PlannedRun]) -> list[str]:
    """What a reader of the plan must know."""
    notes = []
    if any(run.config["distill"]["teacher"] for run in runs):
        notes.append("a teacher's own work is neither in the training FLOPs nor in the estimated hours")
    of_cells = [run for run in runs if not run.before]
    for what, values in (
        ("batch sizes", {run.config["batch_size"] for run in of_cells}),
        ("numbers of training pictures", {run.train_images for run in of_cells}),
    ):
        if len(values) > 1:
            listed = ", ".join(f"{value:,}" for value in sorted(values))
            notes.append(f"cells have different {what} ({listed}): their pictures come in another order")
    return notes


class _Problems:
    """Collects what is wrong, cell by cell, so that it is all said at once."""

    def __init__(self) -> None:
        self._where: dict[str, list[str]] = {}
        self._name = ""

    def of(self, name: str) -> _Problems:
        """Name the cell that the next `with` block is about."""
        self._name = name
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, UsageError):
            return False
        for line in str(error).splitlines():
            self._where.setdefault(line, []).append(self._name)
        return True

    def __bool__(self) -> bool:
        return bool(self._where)

    def refuse(self) -> None:
        """Raise UsageError where there is anything."""
        if self._where:
            lines = []
            for problem, names in self._where.items():
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                lines.append(f"{problem} ({names[0]}{more})")
            raise UsageError("\n".join(lines))


Planner = Callable[[Plan | None], Plan]
