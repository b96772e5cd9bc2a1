"""What a notebook uses: create_model, load, train, evaluate. The command line calls the same functions."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from isopatch.data.open import open_data
from isopatch.data.source import DataSplits, ImageSource
from isopatch.data.sources.relabel import relabel
from isopatch.errors import UsageError
from isopatch.models import spec as models
from isopatch.models.load import load as load
from isopatch.nn.skeleton import Isotropic
from isopatch.training.config import RunConfig
from isopatch.training.evaluate import Evaluation, evaluate
from isopatch.training.loop import RunResult, train_run
from isopatch.training.plan import plan_run
from isopatch.training.runfolder import RunFolder, next_run_path, require_run, stored_config
from isopatch.training.stop import StopRequest

log = logging.getLogger("isopatch")


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    **architecture_arguments: Any,
) -> Isotropic:
    """Build a model with fresh weights, drawn from torch's global generator.

    name: one of `isopatch models list`. architecture_arguments: keywords of its architecture function
    (`kernel_size=9, patch_size=1`); None keeps the published value.
    Raises UsageError for unknown names and arguments, and for parts that do not fit together.
    """
    arguments = dict(architecture_arguments)
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if image_size is not None:
        arguments["image_size"] = image_size
    problems = models.check_arguments(name, arguments)
    if problems:
        raise UsageError("; ".join(problems))
    return models.build(models.make_spec(name, arguments))


def train(
    config: RunConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: str | None = None,
    overwrite: bool = False,
    max_minutes: float | None = None,
    quiet: bool = False,
) -> RunResult:
    """Train `config` into the run folder `out`, evaluate it and write its report.

    config: None continues the run in `out` with its own configuration. out: default runs/<data>-<model>-<n>.
    resume: None refuses a folder that is not empty; "auto" continues where there is a checkpoint and starts
        otherwise; a path names the run folder to continue. overwrite: delete the run that is there.
    max_minutes: save and stop after this long (result.exit_code 75); run again with resume="auto".
    Raises UsageError for a request that cannot work, IsopatchError when training had to stop.
    """
    folder = _run_folder(config, out, resume, overwrite)
    stop = StopRequest(max_minutes)
    threads = torch.get_num_threads()
    with stop.listening(), folder.hold(), torch.random.fork_rng():
        try:
            if config is None:
                config = stored_config(folder.path)
            splits = open_splits(config, verify=("val", "test"))
            result = train_run(config, splits, folder, stop, overwrite=overwrite, quiet=quiet)
            if result.state == "finished":
                from isopatch.report.run_page import write_run_report

                write_run_report(folder.path)
        finally:
            torch.set_num_threads(threads)
    return result


def plan(config: RunConfig) -> dict[str, Any]:
    """Return what training `config` would cost, measured over a few steps; writes nothing."""
    with torch.random.fork_rng():
        return plan_run(config, open_splits(config))


def open_splits(config: RunConfig, *, verify: Collection[str] = ()) -> DataSplits:
    """Open the data of a run; verify: roles whose pictures are all read once now (see `open_data`)."""
    data = config.data
    return open_data(
        data.source,
        val_fraction=data.val_fraction,
        split_seed=data.split_seed,
        bad=data.bad,
        max_pixels=data.max_pixels,
        verify=verify,
    )


def evaluate_checkpoint(
    source: str | Path,
    data: str,
    *,
    split: str | None = None,
    name: str | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    bad: str = "fail",
    threads: int | None = None,
) -> Evaluation:
    """Evaluate whatever `load` opens on one split of a data set.

    split: "test" where the data has one, else "val", when None. A split that was cut from the data by seed is
        cut as the run did, where `source` is (in) the folder of a run on the same data.
    Classes are matched by name with those the model was trained on; a class the model does not know raises
    UsageError.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    model = load(source, name=name)
    splits = open_data(data, bad=bad, **_as_the_run_split(Path(source), data))
    chosen = split or ("test" if splits.test is not None else "val")
    pictures: ImageSource | None = {"train": splits.train, "val": splits.val, "test": splits.test}.get(chosen)
    if pictures is None:
        named = {"train": splits.train, "val": splits.val, "test": splits.test}
        present = [name for name, source_ in named.items() if source_ is not None]
        raise UsageError(f"--split {chosen}: {data} has {', '.join(present)}")
    classes = model.spec.classes
    if classes is None:
        if model.spec.arguments["num_classes"] != len(splits.classes):
            raise UsageError(
                f"{source} has {model.spec.arguments['num_classes']} classes without names, {data} has "
                f"{len(splits.classes)}; evaluate a checkpoint trained on this data"
            )
        classes = splits.classes
    pictures = relabel(pictures, classes, where=f"{data} ({chosen})")
    for note in splits.notes:
        log.info("%s", note)
    return evaluate(
        model.to(device),
        pictures,
        model.spec.input,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        classes=classes,
        memory_limit_mb=0,
    )


def _as_the_run_split(source: Path, data: str) -> dict[str, Any]:
    """How the run that `source` belongs to split `data`; without one, no validation split is cut."""
    places = [*(source / "x").absolute().parents][:4] + [*(source / "x").resolve().parents][:4]
    for folder in places:
        if (folder / "config.yaml").is_file():
            config = stored_config(folder).data
            if config.source == data or Path(config.source).resolve() == Path(data).resolve():
                kept = ("val_fraction", "split_seed", "max_pixels")
                return {key: getattr(config, key) for key in kept}
    return {"val_fraction": 0.0}


def _run_folder(
    config: RunConfig | None, out: str | Path | None, resume: str | None, overwrite: bool
) -> RunFolder:
    """Decide where the run lives, and refuse to mix it with another."""
    if resume is not None and overwrite:
        raise UsageError("--resume and --overwrite exclude each other; keep one")
    if resume is not None and resume != "auto":
        if out is not None and Path(out).resolve() != Path(resume).resolve():
            raise UsageError(f"--resume {resume} names another folder than --out {out}; keep one")
        out = resume
        require_run(Path(resume))
    if out is None:
        if config is None:
            raise UsageError("nothing to continue: give --out, the folder of a run")
        stem = f"{Path(config.data.source).name or 'data'}-{config.model.name}"
        return RunFolder(next_run_path(Path("runs"), stem))
    folder = RunFolder(Path(out))
    if config is None:
        require_run(folder.path)
    if folder.has_run() and resume is None and not overwrite:
        raise UsageError(
            f"{folder.path} is not empty: --resume auto continues the run in it, --overwrite replaces it, "
            f"--out chooses another folder"
        )
    if resume == "auto" and folder.has_run() and not (folder.path / "config.yaml").is_file():
        raise UsageError(
            f"{folder.path} holds other files and no run (no config.yaml); choose another folder with --out"
        )
    return folder
