"""Read what a run folder holds; whatever is missing or damaged becomes a sentence, never an exception."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from isopatch.errors import UsageError
from isopatch.plain_yaml import read_plain
from isopatch.report.wording import number

TRAIN_COLUMNS = ("step", "epoch", "loss", "lr", "grad_norm", "images_per_second", "seconds")
EVAL_COLUMNS = ("step", "epoch", "top1", "top5", "nll")
SPLITS = ("test", "val", "train")  # the first one evaluated is the headline

Columns = dict[str, NDArray[np.float64]]


@dataclass
class RunFiles:
    """The content of one run folder; absent parts are empty.

    train: column -> (rows,) float64, NaN where a row has no number. validation: the same per kind of weights
    ("model", "ema"). evaluations: split -> evaluation-<split>.json. problems: what a reader must know about
    missing or damaged files, in whole sentences.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    train: Columns = field(default_factory=dict)
    validation: dict[str, Columns] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run's name: its folder's."""
        return self.path.resolve().name

    @property
    def model_name(self) -> str:
        """The model's name, from the summary or the configuration."""
        for node in (self.summary.get("model"), self.config.get("model")):
            if isinstance(node, dict) and isinstance(node.get("name"), str):
                return str(node["name"])
        return "unknown model"

    @property
    def data_name(self) -> str:
        """The last part of the data source: a page that is passed on tells no paths."""
        data = self.config.get("data")
        source = data.get("source") if isinstance(data, dict) else None
        return Path(str(source)).name or str(source) if source else "unknown data"


def read_run(path: Path) -> RunFiles:
    """Read a run folder. Raises `UsageError` where `path` is no folder or holds none of a run's files."""
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; give the folder of a run")
    if not is_run(path):
        raise UsageError(f"{path}: no config.yaml, metrics.jsonl or summary.json; give the folder of a run")
    run = RunFiles(path)
    run.config = _mapping(run, "config.yaml")
    run.environment = _mapping(run, "env.json")
    run.status = _mapping(run, "status.json")
    state = run.status.get("state")
    run.summary = _mapping(run, "summary.json", needed=state == "finished")
    for split in SPLITS:
        evaluation = _mapping(run, f"evaluation-{split}.json", needed=False)
        if evaluation:
            run.evaluations[split] = evaluation
    _read_metrics(run)
    return run


def is_run(path: Path) -> bool:
    """Whether a folder holds any of a run's files."""
    return any((path / name).is_file() for name in ("config.yaml", "metrics.jsonl", "summary.json"))


def section(values: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a nested mapping, empty where it is absent or something else."""
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _mapping(run: RunFiles, name: str, *, needed: bool = True) -> dict[str, Any]:
    path = run.path / name
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        document = read_plain(text) if path.suffix == ".yaml" else json.loads(text)
    except FileNotFoundError:
        if needed:
            run.problems.append(f"{name} is missing, so what it holds is not shown.")
        return {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        run.problems.append(f"{name} cannot be read, so what it holds is not shown.")
        return {}
    if not isinstance(document, dict):
        run.problems.append(f"{name} holds no table of values, so it is not shown.")
        return {}
    return document


def _rows(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield each line's row, None for a damaged line."""
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield row if isinstance(row, dict) else None


def _read_metrics(run: RunFiles) -> None:
    path = run.path / "metrics.jsonl"
    train = {name: array("d") for name in TRAIN_COLUMNS}
    validation: dict[str, dict[str, array[float]]] = {}
    damaged = 0
    try:
        for row in _rows(path):
            if row is None:
                damaged += 1
            elif row.get("kind") == "train":
                _append(train, row)
            elif row.get("kind") == "eval" and row.get("split", "val") == "val":
                weights = str(row.get("weights", "model"))
                _append(validation.setdefault(weights, {name: array("d") for name in EVAL_COLUMNS}), row)
    except FileNotFoundError:
        run.problems.append("metrics.jsonl is missing, so there are no curves.")
    except OSError:
        run.problems.append("metrics.jsonl cannot be read, so there are no curves.")
    if damaged:
        run.problems.append(f"metrics.jsonl has {damaged} damaged line{'s' * (damaged > 1)}, left out here.")
    run.train = {name: np.array(values, dtype=np.float64) for name, values in train.items()}
    run.validation = {
        weights: {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
        for weights, columns in validation.items()
    }
    lost = int((~np.isfinite(run.train["loss"])).sum())
    if lost:
        run.problems.append(
            f"{lost} of {len(run.train['loss'])} logged training losses are not finite; the curve has gaps."
        )


def _append(columns: dict[str, array[float]], row: dict[str, Any]) -> None:
    for name, values in columns.items():
        found = number(row.get(name))
        values.append(float("nan") if found is None else found)
