"""What a notebook uses: create_model, load, train, evaluate. The command line calls the same functions."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from isopatch.conversion import run as conversion
from isopatch.conversion.targets import as_format
from isopatch.data.open import open_data
from isopatch.data.source import DataSplits, ImageSource
from isopatch.data.sources.relabel import relabel
from isopatch.data.summary import summarise
from isopatch.errors import IsopatchError, UsageError
from isopatch.image.decode import DecodeError
from isopatch.models import spec as models
from isopatch.models.load import load as load
from isopatch.models.load import open_weights
from isopatch.models.locate import recorded_data
from isopatch.nn.classifier import Classifier
from isopatch.predict import require_device
from isopatch.recipes.default import DefaultChoice, choose
from isopatch.recipes.resolve import resolve
from isopatch.training.config import DataConfig, RunConfig
from isopatch.training.evaluate import Evaluation, evaluate
from isopatch.training.hardware import available_cores
from isopatch.training.loop import RunResult, finished_result, train_run
from isopatch.training.place import agreed_config, located, run_folder
from isopatch.training.plan import plan_run
from isopatch.training.runfolder import RunFolder
from isopatch.training.setup import data_fingerprint
from isopatch.training.stop import StopRequest

log = logging.getLogger("isopatch")


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    **architecture_arguments: Any,
) -> Classifier:
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


def configure(
    *,
    data: str = "digits",
    model: str | None = None,
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the configuration that `isopatch train --data ... --model ... --recipe ...` would use.

    model: None looks at the pictures and chooses one. recipe: None takes `small`, or `finetune` where
    settings give weights. settings: dotted names and values, {"model.dim": 64, "weights": "runs/first"}.
    What was chosen, and why, is logged. Raises UsageError with one line per unknown name and bad value.
    """
    notes: list[str] = []
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in (settings or {}).items()}
    config = resolve(
        model=model,
        recipe=recipe,
        data=data,
        overrides=texts.items(),
        choose_for=default_choice,
        notes=notes,
    )
    for note in notes:
        log.info("%s", note)
    return config


def default_choice(data: DataConfig) -> DefaultChoice:
    """Look at the pictures and choose a model and a recipe for them."""
    splits = open_data(
        data.source,
        val_fraction=data.val_fraction,
        split_seed=data.split_seed,
        max_pixels=data.max_pixels,
    )
    if splits.train is None:
        raise UsageError(f"data.source: {data.source} has no training split")
    return choose(summarise(splits.train), cores=available_cores())


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
    config = None if config is None else located(config)
    folder = run_folder(config, out=out, resume=resume, overwrite=overwrite)
    stop = StopRequest(max_minutes)
    threads = torch.get_num_threads()
    with stop.listening(), folder.hold(), torch.random.fork_rng():
        try:
            if not overwrite:
                config = agreed_config(folder, config)
                done = finished_result(folder)
                if done is not None:
                    return done
            assert config is not None
            splits = open_splits(config, verify=("val", "test"))
            result = train_run(config, splits, folder, stop, overwrite=overwrite, quiet=quiet)
        except Exception as failure:
            told = _unreadable(failure) if isinstance(failure, DecodeError) else failure
            folder.record_failure(told)
            _write_report(folder)
            if told is failure:
                raise
            raise told from failure
        finally:
            torch.set_num_threads(threads)
        _write_report(folder)
    return result


def _unreadable(error: DecodeError) -> IsopatchError:
    """What to do about a picture that ended a training."""
    return IsopatchError(
        f"{error}; `isopatch data check` lists every such file: mend or remove them, or leave them out with "
        f"--bad skip"
    )


def _write_report(folder: RunFolder) -> None:
    """Write report.html, also of a run that stopped or failed: that is when the curves are wanted."""
    if not folder.metrics_file.is_file():
        return
    from isopatch.report.run_page import write_run_report

    try:
        write_run_report(folder.path)
    except Exception as error:  # the run itself, its checkpoints and its exit code matter more
        log.warning("report.html could not be written: %s", error)


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
        cut as the run did that made the weights (they carry how).
    Classes are matched by name with those the model was trained on; a class the model does not know raises
    UsageError.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    place = require_device(device)
    model = load(source, name=name)
    splits, chosen, pictures = _split_of(source, data, split, bad)
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
        if not note.startswith("No validation split"):  # a sentence about training
            log.info("%s", note)
    return evaluate(
        model.to(place),
        pictures,
        model.spec.input,
        batch_size=batch_size,
        workers=workers,
        device=str(place),
        precision=precision,
        classes=classes,
        memory_limit_mb=0,
    )


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: str,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    check: bool = False,
    against: str | Path | None = None,
    data: str | None = None,
    split: str | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
    partial: bool = False,
    ema: bool = False,
) -> dict[str, Any]:
    """Write whatever `load` opens in another project's format, and measure that it is still the same model.

    to: "isopatch", "timm", "deit", "npz" or "transformers". target: a folder, or a file with the format's
        suffix; one that exists is refused unless overwrite. name, arguments, partial, ema: as in `load`.
    check: compare the logits of the source, in our code, with those of the target in the code of its own
        project, where that is installed. against: "timm", "transformers", or another checkpoint instead.
    data, split: pictures to compare on, and to measure both sides' accuracy where they are of the model's
        classes; a few are generated otherwise. against and data imply check.
    tolerance: largest difference of a logit over the largest logit; default 1e-5, float32.
    Returns the report as plain JSON values: read and written (tensors matched, reshaped, left_over, missing),
    round_trip, not_kept, other_settings, check, passed. Where passed is false, target was not written.
    Raises UsageError and IsopatchError, with nothing written, for what is refused.
    """
    wanted, place = as_format(to), Path(target)
    limit = conversion.as_tolerance(tolerance)
    conversion.ready(wanted, place, source, overwrite=overwrite)
    opened = open_weights(source, name, arguments=arguments, partial=partial, ema=ema)
    compared = None
    if check or against is not None or data is not None:
        compared = conversion.Check(against=None if against is None else str(against), tolerance=limit)
    if data is not None:
        spec = opened.model.spec
        _, chosen, pictures = _split_of(source, data, split, "fail")
        classes = spec.classes
        if classes is None and spec.arguments["num_classes"] == len(pictures.classes):
            classes = pictures.classes
        labelled = classes is not None and set(pictures.classes) <= set(classes)
        if labelled:
            assert classes is not None
            pictures = relabel(pictures, classes, where=f"{data} ({chosen})")
        else:
            log.info("%s: its classes are not the model's, so no accuracy is measured", data)
        what = f"{data} ({chosen}), {len(pictures)} pictures"
        compared = conversion.Check(
            None if against is None else str(against), pictures, what, labelled, limit
        )
    return conversion.convert(opened, source, place, to=wanted, overwrite=overwrite, check=compared)


def _split_of(
    source: str | Path, data: str, split: str | None, bad: str
) -> tuple[DataSplits, str, ImageSource]:
    """Open the split to measure weights on: "test" where the data has one, else "val", when None."""
    splits, changed = _open_as_the_run_did(source, data, bad)
    chosen = split or ("test" if splits.test is not None else "val")
    if changed and chosen in splits.cut:
        raise UsageError(
            f"{data} is not what it was when {source} was trained (pictures were added, removed or changed): "
            f"the {chosen} split cut from it now would hold pictures it was trained on; evaluate on a folder "
            f"of its own"
        )
    named = {"train": splits.train, "val": splits.val, "test": splits.test}
    pictures: ImageSource | None = named.get(chosen)
    if pictures is None:
        present = [name for name, source_ in named.items() if source_ is not None]
        raise UsageError(f"--split {chosen}: {data} has {', '.join(present)}")
    return splits, chosen, pictures


def _open_as_the_run_did(source: str | Path, data: str, bad: str) -> tuple[DataSplits, bool]:
    """Open data that was cut by seed as the run that made the weights cut it; say whether it changed since.

    Other data is opened without a validation cut. Warns where a test split cut now may hold pictures that the
    weights were trained on.
    """
    recorded = recorded_data(source)
    if recorded is not None:
        kept = {key: recorded[key] for key in ("val_fraction", "split_seed", "max_pixels")}
        splits = open_data(data, bad="skip" if "skip" in (bad, recorded["bad"]) else "fail", **kept)
        same_pictures = data_fingerprint(splits)["train"] == recorded["fingerprint"]
        if same_pictures or recorded["source"] in (os.path.abspath(data), data):
            return splits, not same_pictures
    splits = open_data(data, bad=bad, val_fraction=0.0)
    if "test" in splits.cut:
        log.warning(
            "%s has no test split of its own, and %s was trained on other data, or does not say on which: if "
            "pictures of both are the same, the test split cut now holds some that it was trained on",
            data,
            source,
        )
    return splits, False
