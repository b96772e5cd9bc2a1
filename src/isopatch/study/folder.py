"""The folder of a study: what was planned, once; a study that has changed since is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from isopatch.errors import IsopatchError, UsageError
from isopatch.files import create_file, replace_file, to_json
from isopatch.study.load import dump_study
from isopatch.study.planned import Plan, PlannedRun, read_plan
from isopatch.study.schema import Study

PLAN, STUDY = "plan.json", "study.yaml"
STUDIES = Path("studies")
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
        raise IsopatchError(f"{path}: damaged; delete it to plan again")
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
    first writes it and the others take it. Raises UsageError where a planned run is another one now.
    """
    for _attempt in range(3):
        former = find_plan(folder)
        if former is not None and _still_is(former, study, threads, measure):
            _keep_study(folder, study)  # whoever wrote the plan may have been killed before it wrote this
            return former
        plan = planner(former)
        if former is None:
            _require_free(folder)
            folder.mkdir(parents=True, exist_ok=True)
            if not create_file(folder / PLAN, to_json(plan.to_json())):
                continue  # another driver was first
        else:
            _require_same(folder, former, plan)
            plan = _with_history(folder, former, plan)
            if plan.to_json() != former.to_json():
                replace_file(folder / PLAN, to_json(plan.to_json()))
        _keep_study(folder, study)
        return plan
    raise IsopatchError(f"{folder / PLAN}: comes and goes; is something else writing to this folder?")


def _keep_study(folder: Path, study: Study) -> None:
    text = dump_study(study).encode()
    if not (folder / STUDY).is_file() or (folder / STUDY).read_bytes() != text:
        replace_file(folder / STUDY, text)


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


def _require_free(folder: Path) -> None:
    strange = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    strange = [name for name in strange if name != STUDY and not name.startswith(".")]
    # Looked at last: what another driver wrote since then, it wrote after its plan.
    if strange and not (folder / PLAN).is_file():
        raise UsageError(
            f"{folder} holds other things ({', '.join(sorted(strange)[:3])}) and no {PLAN}; choose another "
            f"folder with --out"
        )


def _require_same(folder: Path, former: Plan, plan: Plan) -> None:
    now = plan.by_id
    runs: dict[str, list[str]] = {}
    for run in former.runs:
        for line in _differences(run, now.get(run.id)):
            runs.setdefault(line, []).append(run.id)
    lines = [f"{_named(names, len(former))}: {line}" for line, names in runs.items()]
    if lines and former.study.name != plan.study.name:
        raise UsageError(
            f"{folder} holds the study '{former.study.name}', not '{plan.study.name}'; choose another folder "
            f"with --out"
        )
    if lines:
        more = f" (and {len(lines) - MOST_LINES} more)" if len(lines) > MOST_LINES else ""
        raise UsageError(
            f"the study in {folder} was begun differently: {'; '.join(lines[:MOST_LINES])}{more}; take that "
            f"back, or choose another folder with --out (runs may be added)"
        )


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
