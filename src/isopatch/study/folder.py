"""The folder of a study: what was planned, once; a study that has changed since runs began is refused."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from isopatch.errors import IsopatchError, UsageError
from isopatch.files import create_file, replace_file, to_json
from isopatch.plain_yaml import read_plain
from isopatch.study.load import dump_study, load_study
from isopatch.study.planned import Plan, PlannedRun, again, read_plan, run_path, with_speeds
from isopatch.study.schema import Study

PLAN, STUDY = "plan.json", "study.yaml"
STUDIES = Path("studies")
ASIDE = re.compile(r"study\.\d+\.yaml")
BEGUN = ("claims", "runs")  # there from the first run on
log = logging.getLogger("isopatch")
OURS = (
    *(STUDY, PLAN, *BEGUN, "logs", "configs", "failures", "probes", "slurm"),
    *("results.parquet", "report.html"),
)
MOST_LINES = 5  # of what is different, in an error
CHANGED, ADDED = "the hypotheses were changed when", "runs were added when"


def find_plan(folder: Path) -> Plan | None:
    """Return the plan of a study's folder; None where none was begun."""
    path = folder / PLAN
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise IsopatchError(f"{path}: damaged; {again(path)}")
    return read_plan(document, path)


def open_plan(folder: Path) -> Plan:
    """Return the plan of a study's folder; raises UsageError where there is none."""
    plan = find_plan(folder)
    if plan is None:
        raise UsageError(f"{folder}: no {PLAN} here; give the folder of a study (isopatch study run --out)")
    return plan


def begin(
    folder: Path,
    study: Study,
    planner: Callable[[Plan | None], Plan],
    *,
    threads: int | None = None,
    measure: bool = False,
) -> Plan:
    """Return the plan to work on, kept in the folder: the one begun there, with the runs that were added.

    planner: makes the plan, given the one that was begun; not asked where that was made of this very study,
    with these threads, and with speeds where `measure` wants some. Of several drivers that begin at once, the
    first writes it and the others take it. Until the first run begins, a study that changed replaces it.
    Raises UsageError where a planned run is another one now, or was begun as another one.
    """
    for _attempt in range(3):
        former, begun = find_plan(folder), has_begun(folder)
        if former is not None and _still_is(former, study, threads, measure):
            _keep_study(folder, study, former)  # whoever wrote it may have been killed before it wrote this
            return former
        if former is not None and not begun:
            _require_own(folder, former, study)
        plan = planner(former)
        if former is not None and not begun and _all_differences(former, plan):
            plan = planner(replace(former, runs=()))  # its speeds are those of other runs
        if begun != has_begun(folder):
            continue  # another driver began to run what was planned before
        if former is None:
            _require_free(folder, study)
            if (recovered := _recovered(folder, plan)) != plan:
                plan = planner(recovered)
            _require_run_like_that(folder, plan)
            folder.mkdir(parents=True, exist_ok=True)
            if not create_file(folder / PLAN, to_json(plan.to_json())):
                continue  # another driver was first
        else:
            if begun:
                _require_same(folder, former, plan)
            plan = _with_history(folder, former, plan)
            if plan.to_json() != former.to_json():
                replace_file(folder / PLAN, to_json(plan.to_json()))
        _keep_study(folder, study, former)
        return plan
    raise IsopatchError(f"{folder / PLAN}: comes and goes; is something else writing to this folder?")


def has_begun(folder: Path) -> bool:
    """Return whether a run of the study in a folder was ever begun: until then it may change."""
    return any((folder / name).is_dir() and any((folder / name).iterdir()) for name in BEGUN)


def is_study_folder(folder: Path) -> bool:
    """Return whether a folder is a study's own: it holds a plan, or a study.yaml that may become one."""
    return (folder / PLAN).is_file() or (folder / STUDY).is_file()


def _keep_study(folder: Path, study: Study, former: Plan | None) -> None:
    """Write study.yaml; what somebody else wrote there (comments, a small form) is put aside, not lost."""
    path, text = folder / STUDY, dump_study(study).encode()
    there = path.read_bytes() if path.is_file() else None
    if there == text:
        return
    if there is not None and (former is None or there != dump_study(former.study).encode()):
        number = 1
        while not create_file(folder / f"study.{number}.yaml", there):
            number += 1
        log.info("%s: as it was before: study.%d.yaml", path, number)
    replace_file(path, text)


def _with_history(folder: Path, former: Plan, plan: Plan) -> Plan:
    """Add what happened to the study on the way: what is decided after results is no prediction."""
    from isopatch.study.state import is_done

    told = [note for note in former.notes if note.startswith((CHANGED, ADDED))]
    done = sum(is_done(folder, former, run) for run in former)
    finished = f"{done} of {len(former)} runs were finished"
    if done and former.study.hypotheses != plan.study.hypotheses:
        told.append(f"{CHANGED} {finished}: {_changes(former.study, plan.study)}")
    if done and len(plan) > len(former):
        told.append(
            f"{ADDED} {finished}, now {len(plan)}: seeds added because of a result make it look more "
            f"certain than it is"
        )
    return replace(plan, notes=(*plan.notes, *told))


def _changes(former: Study, study: Study) -> str:
    """Name the claims that are new, gone, or say something else now."""
    before = {each.claim: each for each in former.hypotheses}
    now = {each.claim: each for each in study.hypotheses}
    parts = (
        ("new", [claim for claim in now if claim not in before]),
        ("gone", [claim for claim in before if claim not in now]),
        ("otherwise", [claim for claim in now if claim in before and before[claim] != now[claim]]),
    )
    told = [f"{how}: {', '.join(repr(claim) for claim in claims)}" for how, claims in parts if claims]
    return "; ".join(told) or "their order"


def _still_is(former: Plan, study: Study, threads: int | None, measure: bool) -> bool:
    """Whether a plan need not be made again."""
    measured = all(run.images_per_second is not None for run in former)
    return former.study == study and threads in (None, former.threads) and (measured or not measure)


def _require_free(folder: Path, study: Study) -> None:
    """Where there is no plan, a folder is taken that is empty, or a study's own whose plan was deleted."""
    present = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    ours = OURS if STUDY in present else ()
    strange = [name for name in present if name not in ours and not ASIDE.fullmatch(name)]
    strange = [name for name in strange if not name.startswith(".")]
    # Looked at last: what another driver wrote since then, it wrote after its plan.
    if (folder / PLAN).is_file():
        return
    if strange:
        raise UsageError(
            f"{folder} holds other things ({', '.join(sorted(strange)[:3])}) and no {PLAN}; choose another "
            f"folder with --out"
        )
    if STUDY in present:
        _require_name(folder, load_study(folder).name, study)


def _require_own(folder: Path, former: Plan, study: Study) -> None:
    """Until a run begins a study may change, its name too where that is changed in its own study.yaml."""
    with contextlib.suppress(UsageError):
        if load_study(folder) == study:
            return
    _require_name(folder, former.study.name, study)


def _require_name(folder: Path, name: str, study: Study) -> None:
    if name != study.name:
        raise UsageError(
            f"{folder} holds the study '{name}', not '{study.name}'; choose another folder with --out"
        )


def _require_same(folder: Path, former: Plan, plan: Plan) -> None:
    lines = _all_differences(former, plan)
    if lines:
        _require_name(folder, former.study.name, plan.study)
        _refuse(folder, lines)


def _require_run_like_that(folder: Path, plan: Plan) -> None:
    """Where the plan was deleted, the runs that are there say how they were begun."""
    pairs = [(was, run) for run in plan if (was := _as_begun(folder, run)) is not None]
    lines = _grouped(pairs, len(plan))
    if lines:
        _refuse(folder, lines)


def _recovered(folder: Path, plan: Plan) -> Plan:
    """A plan with what a deleted one had settled: the threads, and the speeds where these decide lengths."""
    threads, speeds = plan.threads, {}
    for run in plan:
        was = _as_begun(folder, run)
        if was is None:
            continue
        if was.config.get("threads") != run.config["threads"]:
            threads = was.config.get("threads")
        if plan.study.equal.kind == "seconds" and not run.before and was.config.get("steps"):
            speeds[run.cell] = was.config["steps"] * run.config["batch_size"] / plan.study.equal.amount
    return replace(with_speeds(plan, speeds), threads=threads)


def _as_begun(folder: Path, run: PlannedRun) -> PlannedRun | None:
    """A run as it was begun, by what it was told to do, or by its own record; None where it was not."""
    own = run_path(folder, run.id) / "config.yaml"
    told = folder / "configs" / f"{run.id}.yaml"
    path = told if told.is_file() else own
    if not own.is_file():
        return None
    try:
        config = read_plain(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise IsopatchError(f"{path}: cannot be read; delete the folder {own.parent} to have it run again")
    return replace(run, config=_named_needs(config, {need: name for name, need in run.needs.items()}))


def _named_needs(value: Any, names: Mapping[str, str]) -> Any:
    """Settings with "@name" for the paths of runs that come first, wherever the folder lay then."""
    if isinstance(value, dict):
        return {key: _named_needs(item, names) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    for need, name in names.items():
        value = re.sub(rf"(?:(?<=^)|(?<=,)|(?<==))[^,=]*/runs/{re.escape(need)}(?=,|$)", f"@{name}", value)
    return value


def _refuse(folder: Path, lines: list[str]) -> None:
    more = f" (and {len(lines) - MOST_LINES} more)" if len(lines) > MOST_LINES else ""
    raise UsageError(
        f"the study in {folder} was begun differently: {'; '.join(lines[:MOST_LINES])}{more}; take that "
        f"back, or choose another folder with --out (runs may be added)"
    )


def _all_differences(former: Plan, plan: Plan) -> list[str]:
    """What is different in the runs of a plan, said once for all that have it."""
    now = plan.by_id
    return _grouped([(run, now.get(run.id)) for run in former.runs], len(former))


def _grouped(pairs: Sequence[tuple[PlannedRun, PlannedRun | None]], count: int) -> list[str]:
    runs: dict[str, list[str]] = {}
    for before, now in pairs:
        for line in _differences(before, now):
            runs.setdefault(line, []).append(before.id)
    return [f"{_named(names, count)}: {line}" for line, names in runs.items()]


def _differences(before: PlannedRun, now: PlannedRun | None) -> list[str]:
    if now is None:
        return ["no longer in it"]
    from isopatch.training.setup import config_differences

    lines = config_differences(before.config, now.config)
    if before.data_fingerprint != now.data_fingerprint:
        lines.insert(0, f"the pictures in {now.config['data']['source']} are others")
    return lines


def _named(runs: list[str], count: int) -> str:
    if len(runs) == 1:
        return runs[0]
    return f"all {count} runs" if len(runs) == count else f"{len(runs)} runs ({runs[0]}, ...)"
