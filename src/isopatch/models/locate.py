"""From what a user gives to files: a run folder, a checkpoint, a weights file, a hub id."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.external.names import is_external
from isopatch.models.external.published import published_weights, without_weights
from isopatch.models.native import CONFIG, WEIGHTS, is_native, read_config, verify
from isopatch.models.table import ALIASES, MODELS

log = logging.getLogger("isopatch")

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
_STEP = re.compile(r"step-(\d+)")
# What other libraries call the weights beside their config.json, the safe format first.
FOREIGN_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
AVERAGE = "ema.safetensors"  # the moving average beside the weights, in a training checkpoint of ours


@dataclass(frozen=True)
class Found:
    """Weights on the disk.

    weights: the file. folder: a native folder whose config.json describes it, or None for foreign weights.
    config: the config.json beside foreign weights, where there is one. name: the model, where the source
    itself is its name (`timm:resnet18`).
    """

    weights: Path
    folder: Path | None
    config: dict[str, Any] | None = None
    name: str | None = None


def locate(source: str | Path) -> Found:
    """Find the weights of a source: whatever opens trained weights asks here.

    Raises UsageError or IsopatchError naming what is missing or damaged; the name of a model without trained
    weights is a UsageError too.
    """
    text = str(source)
    hub_id = next((text.removeprefix(prefix) for prefix in HUB_PREFIXES if text.startswith(prefix)), None)
    path = Path(source)
    if hub_id is None and not path.exists() and text.startswith("timm/"):
        hub_id = text
    if hub_id is not None:
        from isopatch.models.hub import download

        file, beside = download(hub_id)
        return Found(file, None, beside)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _beside(path)
    if is_external(text):
        weights, config = published_weights(text)
        return Found(weights, None, config, text)
    if text in MODELS or text in ALIASES:
        raise without_weights(text)
    raise UsageError(
        f"{text}: no such file or folder; weights of the hub are given as timm/NAME or hf-hub:OWNER/NAME"
    )


def averaged(found: Found) -> Found:
    """Return the moving average beside native weights; raises UsageError where the folder has none."""
    assert found.folder is not None
    if not (found.folder / AVERAGE).is_file():
        raise UsageError(
            f"{found.folder}: holds no moving average of the weights ({AVERAGE}); a run that keeps one "
            f"has it in its newest checkpoint, RUN/checkpoints/last"
        )
    verify(found.folder / AVERAGE)
    return Found(found.folder / AVERAGE, found.folder)


def recorded_data(source: str | Path) -> dict[str, Any] | None:
    """Return how the training data of our weights was cut (`data` in their config.json); None: not said."""
    folder = locate(source).folder if Path(source).exists() else None
    record = None if folder is None else read_config(folder / CONFIG).get("data")
    return record if isinstance(record, dict) else None


def _in_folder(folder: Path) -> Found:
    """A native folder, a run folder, or somebody else's folder with a config.json."""
    config_path = folder / CONFIG
    if config_path.is_file():
        config = read_config(config_path)
        if is_native(config):
            verify(folder / WEIGHTS)
            return Found(folder / WEIGHTS, folder)
        return Found(_foreign_weights(folder), None, config)
    if (folder / "best" / CONFIG).is_file():
        return _in_folder(folder / "best")
    steps = list(_steps(folder / "checkpoints")) or list(_steps(folder))
    if steps:
        return _newest_whole(folder, steps)
    if (folder / WEIGHTS).is_file():
        raise IsopatchError(f"{folder}: {CONFIG} is missing beside {WEIGHTS}")
    if (folder / "checkpoints").is_dir() or (folder / "config.yaml").is_file():
        raise UsageError(f"{folder}: this run has no checkpoint yet")
    raise UsageError(f"{folder}: neither a run nor a checkpoint (no best/, checkpoints/ or {CONFIG} in it)")


def _newest_whole(folder: Path, steps: list[Path]) -> Found:
    """The newest checkpoint whose weights are whole; damaged ones are named in the log."""
    first: IsopatchError | None = None
    for step in steps:
        try:
            found = _in_folder(step)
        except IsopatchError as error:
            log.warning("%s; trying the checkpoint before it", error)
            first = first or error
            continue
        return found
    raise IsopatchError(f"{folder}: every checkpoint is damaged ({first})")


def _steps(folder: Path) -> Iterator[Path]:
    """Checkpoint folders of a run, newest first."""
    if folder.is_dir():
        found = [
            (int(m.group(1)), p) for p in folder.iterdir() if (m := _STEP.fullmatch(p.name)) and p.is_dir()
        ]
        for _, path in sorted(found, reverse=True):
            yield path


def _beside(path: Path) -> Found:
    """A single file: native when an isopatch config.json beside it describes it."""
    config_path = path.parent / CONFIG
    if path.suffix == ".json":
        raise UsageError(f"{path}: give the folder or the weights file beside it")
    if not config_path.is_file() or path.suffix not in (".safetensors", ".bin", ".pth"):
        return Found(path, None)
    config = read_config(config_path)
    if not is_native(config):
        return Found(path, None, config)
    if path.suffix != ".safetensors":
        return Found(path, None)  # nothing of ours: it only lies there
    verify(path)
    return Found(path, path.parent)


def _foreign_weights(folder: Path) -> Path:
    for name in FOREIGN_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(
        f"{folder}: {CONFIG} is there, weights are not (looked for {', '.join(FOREIGN_WEIGHTS)})"
    )
