"""How far a study is, read from its folder: a run is done, failed, running, or planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isopatch.study.claims import Claims
from isopatch.study.folder import open_plan
from isopatch.study.planned import Plan, PlannedRun, run_path

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
    """Return whether nothing is left to do for a run: trained, evaluated, probed."""
    return is_trained(folder, run) and next_probe(folder, plan, run) is None


def is_trained(folder: Path, run: PlannedRun) -> bool:
    """Return whether a run was trained to its end and evaluated."""
    path = run_path(folder, run.id)
    told = read_json(path / "status.json") or {}
    return told.get("state") == "finished" and (path / "summary.json").is_file()


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
    """Return the record of a run's last failure."""
    return read_json(failure_path(folder, run))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON file's object; None where there is none, or it is being written."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
