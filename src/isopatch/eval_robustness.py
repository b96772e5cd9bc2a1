"""`isopatch eval --suite robustness`: damaged pictures, shuffled tiles, calibration; a page, a plot, JSON."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from isopatch.data.memory import keep_in_memory
from isopatch.data.source import ImageSource
from isopatch.errors import UsageError, nearest
from isopatch.evaluation import labelled_pictures
from isopatch.files import replace_file, to_json
from isopatch.image.names import printable
from isopatch.kernels.use import use
from isopatch.models.load import load_for_pictures
from isopatch.nn.classifier import Classifier
from isopatch.nn.stem import NormedPatchStem, PatchStem
from isopatch.predict import require_device
from isopatch.report.render import require_ours
from isopatch.robustness.corruptions import KINDS, Corruption, corrupt
from isopatch.robustness.suite import run_suite, sample_of, subject
from isopatch.training.config import DataConfig
from isopatch.training.evaluate import thumbnail

log = logging.getLogger("isopatch")

PICTURES = 2000  # damaged by default; a top-1 of 2,000 pictures is known to about 2 points
SHOWN_LEVELS = (1, 3, 5)


def robustness(
    source: str | Path,
    data: str,
    *,
    pictures: int = PICTURES,
    kinds: Sequence[str] = tuple(KINDS),
    seed: int = 0,
    out: str | Path | None = None,
    split: str | None = None,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    kernels: str = "auto",
    bad: str = "fail",
    threads: int | None = None,
) -> dict[str, Any]:
    """Run the robustness suite on whatever `load` opens; write a page, a plot and JSON into a folder.

    pictures, seed: see `isopatch.robustness.suite.run_suite`. kinds: of `isopatch.robustness.corruptions`.
    out: the folder; default robustness-SPLIT in the run, for other weights NAME-robustness-SPLIT here.
    The other arguments are those of `evaluate_checkpoint`, and classes are matched by name as there.
    Returns what the JSON holds: checkpoint, model, data, split, device, precision, kernels, threads, what
    `run_suite` measured, and files (page, plot, json). Raises UsageError.
    """
    chosen_kinds = _checked(kinds, pictures, seed)
    if threads is not None:
        torch.set_num_threads(threads)
    place = require_device(device)
    model = load_for_pictures(source, name=name, arguments=arguments)
    chosen = labelled_pictures(source, model.spec, data, split=split, bad=bad)
    folder = _folder(source, chosen.split, out)
    files = {key: folder / f"robustness.{end}" for key, end in _ENDS.items()}
    require_ours(files["page"])  # now, not when everything is measured
    split_pictures = keep_in_memory(chosen.pictures, limit_mb=DataConfig().memory_limit_mb)
    grid = patch_grid(model)
    model.to(place)
    swapped = use(model, kernels=kernels, precision=precision)
    log.info("%s", swapped)
    who = subject(
        model, split_pictures, batch_size=batch_size, workers=workers, device=str(place), precision=precision
    )
    measured = run_suite(who, kinds=chosen_kinds, pictures=pictures, seed=seed, patch_grid=grid)
    document = {
        "checkpoint": str(source),
        "model": model.spec.name,
        "data": data,
        "split": chosen.split,
        "input": [model.spec.input.height, model.spec.input.width],
        "device": str(place),
        "precision": precision,
        **swapped.ran_on(),
        **measured,
        "files": {key: str(file) for key, file in files.items()},
    }
    first = int(sample_of(split_pictures.labels, pictures, seed)[0])
    _write(document, examples(split_pictures, first, chosen_kinds, seed))
    return document


_ENDS = {"page": "html", "plot": "png", "json": "json"}


def patch_grid(model: Classifier) -> tuple[int, int] | None:
    """Return the grid of a model's patches where it cuts the whole picture into them, else None.

    A stem of several convolutions looks across its cells, and a hybrid's patches are of a feature map.
    """
    stems = [part for part in model.modules() if isinstance(part, PatchStem | NormedPatchStem)]
    contract = model.spec.input
    if not stems or contract.height % stems[0].patch_size or contract.width % stems[0].patch_size:
        return None
    return contract.height // stems[0].patch_size, contract.width // stems[0].patch_size


def examples(source: ImageSource, index: int, kinds: Sequence[Corruption], seed: int) -> dict[str, Any]:
    """Return one picture clean and damaged, as PNG data URIs: name, clean, tiny, kinds -> one per level."""
    clean = np.asarray(source.read(index).convert("RGB"))

    def shown(kind: Corruption, level: int) -> str:
        return thumbnail(Image.fromarray(corrupt(clean, kind, level, seed=seed, index=index)))

    return {
        "name": printable(source.name(index)),
        "clean": thumbnail(Image.fromarray(clean)),
        "tiny": max(clean.shape[:2]) <= 48,
        "levels": list(SHOWN_LEVELS),
        "kinds": {kind.name: [shown(kind, level) for level in SHOWN_LEVELS] for kind in kinds},
    }


def _write(document: dict[str, Any], shown: dict[str, Any]) -> None:
    from isopatch.report.robustness_page import write_robustness_page
    from isopatch.report.robustness_plot import write_robustness_plot

    write_robustness_page(document, shown, Path(document["files"]["page"]))
    write_robustness_plot(document, Path(document["files"]["plot"]))
    replace_file(Path(document["files"]["json"]), to_json(document))


def _folder(source: str | Path, split: str, out: str | Path | None) -> Path:
    """Return the folder to write into, made if it is new; raises UsageError before anything is measured."""
    given = Path(source)
    if out is not None:
        folder = Path(out)
    elif (given / "config.yaml").is_file():
        folder = given / f"robustness-{split}"
    else:
        folder = Path(f"{given.name.split('.')[0].replace(':', '-') or 'model'}-robustness-{split}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be made ({error.strerror}); give another folder") from None
    return folder


def _checked(kinds: Sequence[str], pictures: int, seed: int) -> list[Corruption]:
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--corruptions {kind}: there are {', '.join(KINDS)}{nearest(kind, KINDS)}")
    if pictures < 0:
        raise UsageError(f"--suite-pictures {pictures}: give a number of pictures, or 0 for all")
    if seed < 0:
        raise UsageError(f"--suite-seed {seed}: give 0 or more")
    return [KINDS[kind] for kind in dict.fromkeys(kinds)]
