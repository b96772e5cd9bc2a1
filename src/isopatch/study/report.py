"""The report of a study's folder: everything the page and the export show, as one plain document."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isopatch.plain_yaml import read_plain
from isopatch.report.study_curves import read_curve
from isopatch.report.study_page import write_study_page
from isopatch.report.wording import count, percent, plain
from isopatch.study.analyse import Analysis, analyse
from isopatch.study.pairs import Row
from isopatch.study.public import PublicNames, told_without_paths, without_paths
from isopatch.study.schema import Match

if TYPE_CHECKING:
    import pyarrow as pa

PAGE = "report.html"
STUDY = "study.yaml"
_UNITS = {
    "epochs": "epochs",
    "images": "pictures seen",
    "seconds": "seconds of training",
    "training_flops": "training FLOPs",
}


def write_study_report(folder: Path, out: Path | None = None) -> Path:
    """Analyse what is finished in a study's folder, write the page (`report.html` there) and return its path.

    Raises UsageError where the folder holds no study, or `out` is no page of ours.
    """
    return write_study_page(read_document(folder), folder / PAGE if out is None else out)


def read_document(folder: Path) -> dict[str, Any]:
    """Read a study's folder: declaration, state, results; see `build_document`."""
    return read_public(folder)[0]


def read_public(folder: Path) -> tuple[dict[str, Any], pa.Table]:
    """Return the document of a study's folder and its table, both without paths of this machine.

    Raises UsageError where the folder holds no study.
    """
    from isopatch.study.folder import open_plan
    from isopatch.study.load import dump_study, load_study
    from isopatch.study.rows import table
    from isopatch.study.state import status

    plan = open_plan(folder)
    written = (folder / STUDY).is_file()  # else the first driver was killed between plan.json and it
    study = load_study(folder / STUDY) if written else plan.study
    results = table(folder)
    analysis = analyse(results, study)
    notes = [*analysis.notes, *(f"{note[:1].upper()}{note[1:]}." for note in plan.notes)]
    if study != plan.study:
        notes.append(
            f"{STUDY} is not what the runs were begun with: its hypotheses may be younger than the results. "
            f"'isopatch study run' takes the change over, or refuses it."
        )
    declared = read_plain((folder / STUDY).read_text(encoding="utf-8") if written else dump_study(study))
    names = PublicNames.of(plan, declared)
    rows = results.to_pylist()
    document = build_document(
        declared,
        dataclasses.replace(analysis, notes=notes),
        rows=rows,
        status=status(folder),
        runs=folder / "runs",
        names=names,
    )
    return document, results.from_pylist([without_paths(names(row)) for row in rows], schema=results.schema)


def build_document(
    declared: Mapping[str, Any],
    analysis: Analysis,
    *,
    rows: Sequence[Row],
    status: Mapping[str, Any],
    runs: Path,
    names: PublicNames | None = None,
) -> dict[str, Any]:
    """Return the document of a study: plain values only, and no path of this machine.

    declared: study.yaml as a mapping. status: counts (planned, done, failed, running) and `runs`, one mapping
    of run, cell, seed, state, error each. runs: the folder of the run folders, for their curves. names: what
    to call levels, cells and runs; None: as they are.
    """
    public = PublicNames() if names is None else names
    name = str(declared.get("name", "study"))
    document: dict[str, Any] = public(
        {
            "name": name,
            "question": str(declared.get("question", "")),
            "paper": str(declared.get("paper") or ""),
            "state": {key: int(status[key]) for key in ("planned", "done", "failed", "running")},
            "runs": [_run(entry, public) for entry in status["runs"]],
            "analysis": analysis.to_dict(),
            "curves": [curve for row in rows if (curve := _curve(row, runs)) is not None],
            "made": _made(public(declared), rows, runs),
            "command": _command(name, public(declared), rows),
            "declared": without_paths(public(declared)),
        }
    )
    return document


def _run(entry: Mapping[str, Any], names: PublicNames) -> dict[str, Any]:
    error = names(entry.get("error"))
    return {
        "run": str(entry["run"]),
        "state": str(entry["state"]),
        "error": "" if error is None else _told(str(error)),
    }


def _told(error: str) -> str:
    """The first line of an error, with every path cut to its last part."""
    return told_without_paths(error.strip().splitlines()[0]) if error.strip() else ""


def _curve(row: Row, runs: Path) -> dict[str, Any] | None:
    curve = read_curve(runs / str(row["run"]))
    if curve is None:
        return None
    return {"cell": row["cell"], "seed": row["seed"], "images": curve[0], "top1": curve[1]}


def _made(declared: Mapping[str, Any], rows: Sequence[Row], runs: Path) -> list[tuple[str, str]]:
    """(what, value) of everything a reader needs to judge or repeat the study."""
    told = [("held equal", _equal(declared.get("equal") or {}))]
    if isinstance(declared.get("match"), Mapping):
        match = Match.model_validate({"like": {}, **declared["match"]})  # study.yaml leaves defaults out
        told.append(("matched", f"parameters within {percent(match.parameters, 1)}, by {match.solve}"))
    seeds = sorted({int(row["seed"]) for row in rows})
    told.append(("seeds", ", ".join(map(str, seeds)) or plain(declared.get("seeds"))))
    for key, value in without_paths(dict(declared.get("base") or {})).items():
        told.append((f"every run: {key}", plain(value)))
    for column in ("hardware", "threads", "precision", "kernels"):
        values = sorted({plain(row.get(column)) for row in rows if row.get(column) is not None})
        if values:
            told.append((column, "; ".join(values)))
    return told + _versions(rows, runs)


def _equal(equal: Mapping[str, Any]) -> str:
    said = [
        f"{count(value) if float(value) < 1e9 else format(float(value), '.3g')} {_UNITS.get(key, key)}"
        for key, value in equal.items()
    ]
    return ", ".join(said) or "the base's epochs"


def _versions(rows: Sequence[Row], runs: Path) -> list[tuple[str, str]]:
    """Versions and commit as the runs noted them; all that occurred."""
    found: dict[str, set[str]] = {}
    for row in rows:
        try:
            environment = json.loads((runs / str(row["run"]) / "env.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        versions = environment.get("versions") or {}
        for key in ("isopatch", "torch"):
            if versions.get(key):
                found.setdefault(key, set()).add(str(versions[key]))
        if environment.get("commit"):
            found.setdefault("commit", set()).add(str(environment["commit"])[:12])
    return [(key, ", ".join(sorted(values))) for key, values in found.items()]


def _command(name: str, declared: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """What repeats the study; with its data where all runs share it, and the threads that all had."""
    source = _shared_data(declared)
    data = "" if source is None else f" --data {shlex.quote(source)}"
    threads = {row.get("threads") for row in rows}
    same = f" --threads {threads.pop()}" if len(threads) == 1 and None not in threads else ""
    return (
        f"isopatch study run study.yaml{data}{same} --out studies/{name}\n"
        f"isopatch study report studies/{name}"
    )


def _shared_data(declared: Mapping[str, Any]) -> str | None:
    """The data that base gives every run; None where it gives none, or a factor's levels give their own."""
    from isopatch.study.shortcuts import flat

    source = flat(declared.get("base") or {}, [], "base").get("data.source")
    for factor, levels in (declared.get("factors") or {}).items():
        for level in levels.values() if isinstance(levels, Mapping) else levels:
            settings = level if isinstance(level, Mapping) else {factor: level}
            if "data.source" in flat(settings, [], factor):
                return None
    return None if source is None else str(without_paths(source))
