"""The report of one run: `report.html`, one file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isopatch.report.curves import Chart, run_charts
from isopatch.report.heads_part import HeadsView, heads_view
from isopatch.report.intervals import wilson
from isopatch.report.mistakes import Mistakes, calibration_bins, find_mistakes, heads_table
from isopatch.report.plots import calibration_chart
from isopatch.report.render import write_page
from isopatch.report.run_files import SPLITS, RunFiles, read_run, section
from isopatch.report.settings import compare_with_defaults, flatten
from isopatch.report.wording import MISSING, count, decimal, duration, number, percent, plain, si

MAX_SKIPPED_SHOWN = 200
SPLIT_NAMES = {"test": "test split", "val": "validation split", "train": "training split"}


@dataclass(frozen=True)
class Score:
    """Top-1 on one split, formatted. interval: Wilson, 95 %; empty where the count is unknown."""

    split: str
    value: float
    top1: str
    images: str
    interval: str


@dataclass(frozen=True)
class EvaluationView:
    """One split's evaluation as the page shows it."""

    split: str
    figures: list[tuple[str, str]]
    mistakes: Mistakes
    heads: list[tuple[str, str, str]]
    agreement: str | None
    learned: HeadsView | None
    calibration: Chart | None
    sureness: str


def write_run_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of the run in `run_dir` to `out` (default: report.html in it) and return its path.

    Whatever the run has not written yet is named on the page. Raises `UsageError` where `run_dir` is no run,
    or `out` cannot be written, is no .html, or exists and is no page of ours.
    """
    run = read_run(run_dir)
    title = f"{run.model_name} on {run.data_name}"
    scores = read_scores(run)
    settings = compare_with_defaults(run.config)
    data = section(run.summary, "data")
    return write_page(
        "run.html.j2",
        out if out is not None else run_dir / "report.html",
        {
            "title": title,
            "name": run.name,
            "recipe": plain(run.config["recipe"]) if run.config.get("recipe") else "",
            "state": str(run.status.get("state", "unknown")),
            "when": str(run.status.get("updated", ""))[:16].replace("T", " "),
            "score": scores[0] if scores else None,
            "explanation": _explain(run, scores),
            "tiles": _tiles(run, scores),
            "notes": _notes(run),
            "warnings": _warnings(run),
            "charts": run_charts(run),
            "evaluations": [
                _view(split, values, {} if index else run.summary)
                for index, (split, values) in enumerate(run.evaluations.items())
            ],
            "split_names": SPLIT_NAMES,
            "changed": [setting for setting in settings if setting.changed],
            "settings": settings,
            "arguments": _plain_rows(section(section(run.summary, "model"), "arguments")),
            "input": _plain_rows(section(section(run.summary, "model"), "input")),
            "machine": _machine(run),
            "environment": [row for row in _plain_rows(run.environment) if row[1] not in ("", MISSING)],
            "data": _data_rows(data),
            "skipped": _skipped(data),
            "fingerprints": [
                (name, str(value))
                for name, value in (
                    ("weights SHA-256", run.summary.get("weights_sha256")),
                    ("data fingerprint", data.get("fingerprint")),
                )
                if value
            ],
        },
    )


def read_scores(run: RunFiles) -> list[Score]:
    """Return the final top-1 per split, test first; empty before the final evaluation."""
    found = []
    final = section(run.summary, "final")
    for split in SPLITS:
        values = run.evaluations.get(split) or section(final, split)
        top1, images = number(values.get("top1")), number(values.get("num_images"))
        if top1 is None:
            continue
        interval = ""
        if images is not None and images >= 1 and 0 <= top1 <= 1:
            low, high = wilson(round(top1 * images), int(images))
            interval = f"{100 * low:.1f} – {100 * high:.1f} %"  # noqa: RUF001 - a range takes an en dash
        found.append(Score(split, top1, percent(top1), count(images), interval))
    return found


def _explain(run: RunFiles, scores: Sequence[Score]) -> str:
    """The sentence below the headline figure."""
    if scores and scores[0].split == "test":
        return "Measured on pictures that neither trained nor selected the weights."
    if scores and scores[0].split == "val":
        return "There is no test split: the same pictures selected the weights, so this figure is optimistic."
    if scores:
        return "These pictures were trained on; the figure says nothing about new ones."
    values = run.validation.get("ema") or run.validation.get("model")
    if values is not None and len(values["top1"]):
        return (
            f"Not evaluated yet. Last validation during training, at step {count(values['step'][-1])}: "
            f"{percent(float(values['top1'][-1]))} top-1."
        )
    return "Not evaluated yet."


def _tiles(run: RunFiles, scores: Sequence[Score]) -> list[tuple[str, str]]:
    summary = run.summary
    headline = run.evaluations.get(scores[0].split, {}) if scores else {}
    epochs, seconds = summary.get("epochs", run.config.get("epochs")), number(summary.get("seconds"))
    if seconds is None and len(run.train["seconds"]):
        seconds = number(float(run.train["seconds"][-1]))
    tiles = [(f"{SPLIT_NAMES[score.split]} top-1", score.top1) for score in scores[1:]]
    tiles += [
        ("macro recall", percent(headline.get("macro_recall"))),
        ("parameters", si(summary.get("parameters"))),
        ("MACs per image", si(summary.get("macs"))),
        ("images/s, training", count(summary.get("images_per_second"))),
        ("training time", duration(seconds)),
        ("epochs", count(epochs)),
    ]
    return [(name, value) for name, value in tiles if value != MISSING]


def _notes(run: RunFiles) -> list[str]:
    notes = section(run.summary, "data").get("notes")
    selection = run.summary.get("selection")
    sentences = [f"Selected weights: {selection}."] if isinstance(selection, str) else []
    return sentences + ([str(note) for note in notes] if isinstance(notes, list) else [])


def _warnings(run: RunFiles) -> list[str]:
    """What is unusual: an unfinished run, missing files."""
    status, found = run.status, []
    state = status.get("state")
    if state != "finished" and status:
        progress = f"step {count(status.get('step'))} of {count(status.get('total_steps'))}"
        message = f" {status['message']}" if status.get("message") else ""
        words = {
            "running": f"This run was still going at {progress} when the page was written.",
            "stopped": f"This run was stopped at {progress}; it can be resumed.{message}",
            "failed": f"This run failed at {progress}.{message}",
        }
        found.append(words.get(str(state), f"The state of this run is unknown ({progress}).{message}"))
    if not run.validation and len(run.train["step"]):
        found.append("No validation was recorded during training.")
    if not run.evaluations:
        found.append("No final evaluation was written: no confusion matrix, no per-class table.")
    return found + run.problems


def _view(split: str, evaluation: dict[str, Any], summary: dict[str, Any]) -> EvaluationView:
    heads, agreement = heads_table(evaluation)
    bins = calibration_bins(evaluation)
    svg = calibration_chart(bins, title="Calibration")
    classes = evaluation.get("per_class")
    few_classes = isinstance(classes, list) and len(classes) <= 5  # five guesses are always right then
    return EvaluationView(
        split,
        [
            ("top-1", percent(evaluation.get("top1"))),
            *([] if few_classes else [("top-5", percent(evaluation.get("top5")))]),
            ("macro recall", percent(evaluation.get("macro_recall"))),
            ("negative log-likelihood", decimal(evaluation.get("nll"))),
            ("calibration error (ECE)", decimal(evaluation.get("ece"))),
            ("Brier score", decimal(evaluation.get("brier"))),
            ("pictures", count(evaluation.get("num_images"))),
        ],
        find_mistakes(evaluation),
        heads,
        agreement,
        heads_view(evaluation, summary),
        None if svg is None else Chart("Calibration", svg),
        _sureness(bins),
    )


def _sureness(bins: Sequence[tuple[float, float, int]]) -> str:
    """One sentence on mean confidence beside accuracy; empty without bins."""
    images = sum(row[2] for row in bins)
    if not images:
        return ""
    sure = sum(confidence * n for confidence, _, n in bins) / images
    right = sum(accuracy * n for _, accuracy, n in bins) / images
    word = "about as sure as it should be" if abs(sure - right) < 0.01 else "too sure of itself"
    if sure < right - 0.01:
        word = "more often right than it says"
    return f"On average it is {percent(sure, 1)} sure and {percent(right, 1)} right: {word}."


def _plain_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key, plain(value)) for key, value in flatten(values).items()]


def _machine(run: RunFiles) -> list[tuple[str, str]]:
    rows = [
        ("hardware", plain(run.summary.get("hardware"))),
        ("device", plain(run.summary.get("device"))),
        ("precision", plain(run.summary.get("precision"))),
        ("kernels", plain(run.summary.get("kernels"))),
        ("instruction set", plain(run.summary.get("instruction_set"))),
        ("threads", plain(run.summary.get("threads"))),
        ("seed", plain(run.summary.get("seed", run.config.get("seed")))),
        ("data_seed", plain(run.summary.get("data_seed"))),
        ("images seen", count(run.summary.get("images_seen"))),
        ("steps", count(run.summary.get("steps"))),
        ("batch size", plain(run.summary.get("batch_size"))),
        ("micro-batch (mixing, BatchNorm)", plain(run.summary.get("micro_batch_size"))),
    ]
    return [(key, value) for key, value in rows if value != MISSING]


def _data_rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("source", plain(data.get("source")))]
    for split in ("train", "val", "test"):
        rows.append((f"{SPLIT_NAMES[split]}, pictures", count(data.get(split))))
    classes = data.get("classes")
    if isinstance(classes, list):
        shown = ", ".join(str(name) for name in classes[:40])
        rows.append((f"{len(classes)} classes", shown + (", …" if len(classes) > 40 else "")))
    return [(key, value) for key, value in rows if value != MISSING]


def _skipped(data: dict[str, Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return (split, files skipped, (file, reason) of those that were recorded)."""
    files = section(data, "skipped_files")
    found = []
    for split, value in section(data, "skipped").items():
        listed = value if isinstance(value, list) else files.get(split)
        total = len(value) if isinstance(value, list) else number(value)
        rows = [
            (str(row[0]), str(row[1]))
            for row in (listed if isinstance(listed, list) else [])
            if isinstance(row, list | tuple) and len(row) == 2
        ]
        if total:
            found.append((str(split), count(total), rows[:MAX_SKIPPED_SHOWN]))
    return found
