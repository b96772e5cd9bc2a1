"""How far a study is, read from its folder: a run is done, failed, running, or planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isopatch.study.claims import Claims
from isopatch.study.folder import open_plan
from isopatch.study.planned import Plan, PlannedRun, run_path

NUMBER, TEXT = (int, float), (str,)
SUMMARY: dict[str, tuple[type, ...]] = {  # what the results need of a run's summary
    **dict.fromkeys(("parameters", "macs", "steps", "seed", "images_seen", "threads"), (int,)),
    **dict.fromkeys(("seconds", "images_per_second"), NUMBER),
    **dict.fromkeys(("precision", "kernels", "hardware", "weights_sha256"), TEXT),
    **dict.fromkeys(("data", "final"), (dict,)),
}
DATA: dict[str, tuple[type, ...]] = {"train": (int,), "fingerprint": TEXT}
CLAIMS, FAILURES, PROBES = "claims", "failures", "probes"


def status(folder: str | Path) -> dict[str, Any]:
    """Return how many runs are planned in all, done, failed and running, and the state of each.

    Keys: study, planned, done, failed, running, runs: [{run, cell, seed, before, state, step, total_steps,
    error}]; state: "done", "failed", "running" or "planned".
    """
    place = Path(folder)
    plan = open_plan(place)
    claims = Claims(place / CLAIMS)
    newest = claims.newest()
    rows = []
    for run in plan:
        claim = newest.get(run.id)
        working = claim is not None and claims.alive(claim, watch=False)
        failure = read_failure(place, run.id)
        state = "done" if is_done(place, plan, run) else "running" if working else "planned"
        if state == "planned" and failure is not None:
            state = "failed"
        told = read_json(run_path(place, run.id) / "status.json") or {}
        rows.append(
            {
                "run": run.id,
                "cell": run.cell,
                "seed": run.seed,
                "before": run.before,
                "state": state,
                "step": told.get("step", 0),
                "total_steps": run.steps,
                "error": failure["error"] if state == "failed" and failure else None,
            }
        )
    counts = {state: sum(row["state"] == state for row in rows) for state in ("done", "failed", "running")}
    return {"study": plan.study.name, "planned": len(rows), **counts, "runs": rows}


def is_done(folder: Path, plan: Plan, run: PlannedRun) -> bool:
    """Return whether nothing is left to do for a run: trained, evaluated, probed, and so what it needs."""
    if not is_trained(folder, run) or next_probe(folder, plan, run) is not None:
        return False
    known = plan.by_id if run.needs else {}
    return all(is_done(folder, plan, known[need]) for need in run.needs.values())


def is_trained(folder: Path, run: PlannedRun) -> bool:
    """Return whether a run was trained to its end and evaluated, and its summary can be read."""
    return _has_ended(folder, run.id) and _damage(folder, run.id) is None


def _has_ended(folder: Path, run: str) -> bool:
    told = read_json(run_path(folder, run) / "status.json") or {}
    return told.get("state") == "finished"


def _damage(folder: Path, run: str) -> str | None:
    """Say what is wrong with the summary of a run that ended; None where all is there that results need."""
    path = run_path(folder, run) / "summary.json"
    if not path.is_file():
        return "is missing"
    summary = read_json(path)
    if summary is None:
        return "cannot be read"
    lacks = [name for name, kind in SUMMARY.items() if not _is(summary.get(name), kind)]
    data, final = summary.get("data"), summary.get("final")
    if isinstance(data, dict):
        lacks += [f"data.{name}" for name, kind in DATA.items() if not _is(data.get(name), kind)]
    if isinstance(final, dict):
        lacks += [f"final.{name}" for name, scores in final.items() if not isinstance(scores, dict)]
    return f"is damaged (lacks {', '.join(lacks[:3])})" if lacks else None


def _is(value: Any, kind: tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def next_probe(folder: Path, plan: Plan, run: PlannedRun) -> str | None:
    """Return the first probe that a trained run still lacks; `before` runs are not probed."""
    probes = [] if run.before else plan.study.probes
    return next((probe for probe in probes if read_json(probe_path(folder, run.id, probe)) is None), None)


def probe_path(folder: Path, run: str, probe: str) -> Path:
    """Where the result of a probe lies."""
    return folder / PROBES / f"{run}-{probe}.json"


def failure_path(folder: Path, run: str) -> Path:
    """Where a failure is recorded."""
    return folder / FAILURES / f"{run}.json"


def read_failure(folder: Path, run: str) -> dict[str, Any] | None:
    """Return the record of a run's last failure; a run that ended without a sound summary has failed.

    Keys: run, error; those that are recorded have more.
    """
    damage = _damage(folder, run) if _has_ended(folder, run) else None
    if damage is not None:
        place = run_path(folder, run)
        error = (
            f"{place / 'summary.json'} {damage}: delete {place / 'status.json'} and run the study again, "
            f"which evaluates it anew from its last checkpoint"
        )
        return {"run": run, "error": error}
    record = read_json(failure_path(folder, run))
    return record if record is None else {"error": "its record cannot be read", **record, "run": run}


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON file's object; None where there is none, or it is being written."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
