"""The table of results: one row for every finished run, read from the run folders, written as Parquet."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isopatch.errors import IsopatchError
from isopatch.files import replace_file
from isopatch.report.wording import number
from isopatch.study.folder import open_plan
from isopatch.study.planned import FLOPS_PER_MAC, Plan, PlannedRun, run_path
from isopatch.study.state import is_done, is_trained, probe_path, read_json

if TYPE_CHECKING:
    import pyarrow as pa

RESULTS = "results.parquet"
# What the clock decides: never the same twice, so no part of what the results are.
CLOCK = ("seconds", "wall_seconds", "images_per_second", "before_seconds")
TEXT = (
    "study",
    "run",
    "cell",
    "model",
    "status",
    "split",
    "precision",
    "kernels",
    "hardware",
    "weights_sha256",
)
WHOLE = (
    "seed",
    "parameters",
    "macs",
    "training_flops",
    "before_training_flops",
    "images_seen",
    "steps",
    "train_images",
    "threads",
)
SHARE = ("top1", "top5", "nll", "ece", "macro_recall", "val_top1", *CLOCK)
METRICS = ("top1", "top5", "nll", "ece", "macro_recall")


def table(folder: str | Path) -> pa.Table:
    """Return the results of a study's finished runs, sorted by run; `before` runs are in their costs alone.

    Columns: study, run, cell, model, factor.<name> (text), seed, status, split ("test", or "val" where there
    is no test split), METRICS of that split, val_top1, parameters, macs, training_flops (2 x 3 x MACs x
    pictures seen), images_seen, steps, train_images, before_training_flops and before_seconds (of the runs it
    started from or was taught by), seconds (of training; the validations on the way are not in them),
    wall_seconds (with them), images_per_second (of those seconds), precision, kernels, threads, hardware,
    weights_sha256, probe.<name>.<setting>. Raises IsopatchError where a run folder is not of this plan.
    """
    import pyarrow as pa

    place = Path(folder)
    plan = open_plan(place)
    rows = [
        _row(place, plan, run)
        for run in sorted(plan.runs, key=lambda run: run.id)
        if not run.before and is_done(place, plan, run)
    ]
    probes = sorted({key for row in rows for key in row if key.startswith("probe.")})
    factors = [f"factor.{name}" for name in plan.study.factors]
    types = {
        **dict.fromkeys((*TEXT, *factors), pa.string()),
        **dict.fromkeys(WHOLE, pa.int64()),
        **dict.fromkeys((*SHARE, *probes), pa.float64()),
    }
    first = ["study", "run", "cell", "model", *factors, "seed", "status", "split", *METRICS, "val_top1"]
    names = [*first, *(name for name in types if name not in first)]
    schema = pa.schema([(name, types[name]) for name in names])
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows], schema=schema)


def write_results(folder: str | Path) -> Path:
    """Write results.parquet in a study's folder from the runs that are finished; returns its path."""
    import pyarrow.parquet as pq

    path = Path(folder) / RESULTS
    buffer = io.BytesIO()
    pq.write_table(table(folder), buffer)
    replace_file(path, buffer.getvalue())
    return path


def digest(results: pa.Table) -> str:
    """Return the SHA-256 of a table without what the clock decides: the same however a study was run."""
    kept = results.drop_columns([name for name in CLOCK if name in results.column_names])
    text = json.dumps([kept.column_names, kept.to_pylist()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _row(folder: Path, plan: Plan, run: PlannedRun) -> dict[str, Any]:
    summary = _summary(folder, run)
    final = summary["final"]
    split = next((name for name in ("test", "val") if name in final), None)
    scores = final[split] if split else {}
    needs = {need: _summary(folder, plan.by_id[need]) for need in _all_needs(plan, run)}
    seconds = _training_seconds(folder, run.id, summary)
    return {
        "study": plan.study.name,
        "run": run.id,
        "cell": run.cell,
        "model": run.model,
        **{f"factor.{name}": level for name, level in run.levels.items()},
        "seed": run.seed,
        "status": "done",
        "split": split,
        **{name: scores.get(name) for name in METRICS},
        "val_top1": final.get("val", {}).get("top1"),
        "training_flops": _flops(summary),
        "before_training_flops": sum(_flops(other) for other in needs.values()),
        "before_seconds": sum((_training_seconds(folder, *need) for need in needs.items()), 0.0),
        "seconds": seconds,
        "wall_seconds": summary["seconds"],
        "images_per_second": summary["images_seen"] / max(seconds, 1e-9),
        "train_images": summary["data"]["train"],
        **{
            name: summary[name]
            for name in (
                "parameters",
                "macs",
                "images_seen",
                "steps",
                "precision",
                "kernels",
                "threads",
                "hardware",
                "weights_sha256",
            )
        },
        **probe_figures(folder, plan, run),
    }


def _summary(folder: Path, run: PlannedRun) -> dict[str, Any]:
    """The summary of a finished run, which must be the planned one."""
    path = run_path(folder, run.id)
    summary = read_json(path / "summary.json")
    if summary is None or not is_trained(folder, run):
        raise IsopatchError(f"{path}: not finished, but what was built on it is; run the study again")
    for key, planned in (
        ("parameters", run.parameters),
        ("macs", run.macs),
        ("steps", run.steps),
        ("seed", run.seed),
    ):
        if summary[key] != planned:
            raise IsopatchError(f"{path}: {key} {summary[key]}, planned were {planned}: not this study's run")
    if summary["data"]["fingerprint"] != run.data_fingerprint:
        raise IsopatchError(f"{path}: trained on other pictures than were planned: not this study's run")
    return summary


def _training_seconds(folder: Path, run: str, summary: Mapping[str, Any]) -> float:
    """The wall time of a run less its validations: how often a run validates is no property of its model."""
    path = run_path(folder, run) / "metrics.jsonl"
    wall, validating = float(summary["seconds"]), validation_seconds(path)
    if validating > wall:
        raise IsopatchError(
            f"{path}: validations of {validating:.3g} s in a run of {wall:.3g} s: it was edited; restore it"
        )
    return wall - validating


def validation_seconds(metrics: Path) -> float:
    """Return the seconds that a run validated on its way, as its metrics.jsonl has them; 0 without any.

    A validation that was done again after a resume counts once, as it was done last: the time of what was
    lost with a process is not in the run's wall time either.
    """
    try:
        lines = metrics.read_bytes().splitlines()
    except FileNotFoundError:
        return 0.0
    found: dict[tuple[Any, Any], float] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # a torn line; a resumed run leaves those out too
            continue
        if not isinstance(row, dict) or row.get("kind") != "eval" or row.get("split", "val") != "val":
            continue
        seconds = number(row.get("seconds"))
        if seconds is not None:
            found[row.get("step"), row.get("weights")] = seconds
    return math.fsum(found.values())


def _flops(summary: Mapping[str, Any]) -> int:
    return int(FLOPS_PER_MAC * summary["macs"] * summary["images_seen"])


def _all_needs(plan: Plan, run: PlannedRun) -> list[str]:
    """Every run that this one stands on, those they stand on too, each once."""
    found: dict[str, None] = {}
    waiting = list(run.needs.values())
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += plan.by_id[name].needs.values()
    return sorted(found)


def probe_figures(folder: Path, plan: Plan, run: PlannedRun) -> dict[str, float]:
    """The top-1 accuracies of a run's probes: probe.knn.k-10, probe.few-shot.vit.5-shot, ..."""
    figures: dict[str, float] = {}
    for probe in plan.study.probes:
        document = read_json(probe_path(folder, run.id, probe)) or {}
        for row in document.get("probes", {}).get(probe, ()):
            setting = re.sub(r"[^a-z0-9.]+", "-", str(row["setting"]).lower()).strip("-")
            shots = f".{row['shots']}-shot" if "shots" in row else ""
            figures[f"probe.{probe}.{setting}{shots}"] = float(row["top1"])
    return figures
