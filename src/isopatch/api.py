"""What a notebook uses: create_model, load, train, evaluate. The command line calls the same functions."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from isopatch.conversion import run as conversion
from isopatch.conversion.targets import as_format
from isopatch.data.open import open_data
from isopatch.data.source import DataSplits
from isopatch.data.sources.relabel import relabel
from isopatch.data.summary import summarise
from isopatch.errors import IsopatchError, UsageError
from isopatch.eval_probes import probe as probe
from isopatch.eval_robustness import robustness as robustness
from isopatch.evaluation import evaluate_checkpoint as evaluate_checkpoint
from isopatch.evaluation import split_of
from isopatch.image.decode import DecodeError
from isopatch.kernels.native import kept_instructions
from isopatch.models import spec as models
from isopatch.models.load import load as load
from isopatch.models.load import open_weights
from isopatch.nn.classifier import Classifier
from isopatch.recipes.default import DefaultChoice, choose
from isopatch.recipes.resolve import resolve
from isopatch.recipes.teacher import auto_teacher
from isopatch.training.config import DataConfig, RunConfig
from isopatch.training.hardware import available_cores
from isopatch.training.loop import RunResult, finished_result, train_run
from isopatch.training.place import RUNS, agreed_config, located, run_folder, with_teacher
from isopatch.training.plan import plan_run
from isopatch.training.runfolder import Busy, RunFolder, stored_config
from isopatch.training.stop import StopRequest
from isopatch.training.teaching import require_heads

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
    teacher: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the configuration that `isopatch train --data ... --model ... --recipe ...` would use.

    model: None looks at the pictures and chooses one. recipe: None takes `small`, or `finetune` where
    settings give weights. teacher: what to distil from, as `--teacher`. settings: dotted names and values,
    {"model.dim": 64, "weights": "runs/first"}.
    What was chosen, and why, is logged. Raises UsageError with one line per unknown name and bad value.
    """
    notes: list[str] = []
    asked = dict(settings or {}) | ({} if teacher is None else {"distill.teacher": teacher})
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in asked.items()}
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
        fraction=data.fraction,
        fraction_seed=data.fraction_seed,
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
    began = time.monotonic()
    config = None if config is None else located(config)
    teacher = None
    if config is not None and config.distill.teacher == "auto":
        teacher = _teacher_run(config, out=out, resume=resume)
        config = with_teacher(config, str(teacher.folder.path))
    folder = run_folder(config, out=out, resume=resume, overwrite=overwrite)
    if teacher is not None:
        if not overwrite:  # what refuses the student, or makes a teacher needless, before its time is spent
            agreed_config(folder, config)
            done = finished_result(folder)
            if done is not None:
                return done
        taught = _trained(teacher, max_minutes=max_minutes, quiet=quiet)
        if taught.state != "finished":
            return taught
        if max_minutes is not None:  # of both together; an instant is left to begin and save in
            max_minutes = max(1e-9, max_minutes - (time.monotonic() - began) / 60)
    stop = StopRequest(max_minutes)
    threads = torch.get_num_threads()
    with stop.listening(), folder.hold(), torch.random.fork_rng(), kept_instructions():
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


class TeacherRun(NamedTuple):
    """The run of a teacher that a student waits for."""

    folder: RunFolder
    config: RunConfig


def _teacher_run(student: RunConfig, *, out: str | Path | None, resume: str | None = None) -> TeacherRun:
    """Return the run of the teacher for the student's pictures, beside the student's; nothing is trained."""
    with torch.device("meta"):
        require_heads(create_model(student.model.name, **student.model.arguments), student.distill)
    pictures = open_splits(student).train
    if pictures is None:
        raise UsageError(f"data.source: {student.data.source} has no training split")
    config = auto_teacher(student, len(pictures))
    size = config.model.arguments["image_size"]
    side = "x".join(str(s) for s in size) if isinstance(size, list | tuple) else str(size)
    data = Path(config.data.source).name or "data"
    name = f"{data}-{config.model.name.replace(':', '-')}-{side}-{pictures.fingerprint[:8]}"
    run = out if out is not None else resume if resume not in (None, "auto") else RUNS / "run"
    return TeacherRun(RunFolder(Path(run).resolve().parent / "teachers" / name), config)


def _trained(teacher: TeacherRun, *, max_minutes: float | None, quiet: bool) -> RunResult:
    """Train a teacher, or take the one that was trained on the same pictures.

    One that was interrupted goes on as it began, whatever the student's device and threads are now.
    """
    folder, config = teacher
    log.info(
        "teacher: %s in %s, which is kept and taken again for the same pictures",
        config.model.name,
        folder.path,
    )
    done = finished_result(folder)
    if done is not None:
        return done
    if (folder.path / "config.yaml").is_file():
        begun = stored_config(folder.path)
        source = {"source": config.data.source}  # the pictures are the same, wherever they lie now
        config = begun.model_copy(update={"data": begun.data.model_copy(update=source)})
    waiting = False
    while True:
        try:
            result = train(config, out=folder.path, resume="auto", max_minutes=max_minutes, quiet=quiet)
            break
        except Busy:
            if not waiting:
                log.info("another process is training the teacher in %s: waiting for it", folder.path)
            waiting = True
            time.sleep(2.0)
    if result.state != "finished":
        log.warning("the student has not begun: the command that began its teacher goes on with both")
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


def plan(config: RunConfig, *, out: str | Path | None = None) -> dict[str, Any]:
    """Return what training `config` into `out` would cost, measured over a few steps; writes nothing."""
    notes = []
    if config.distill.teacher == "auto":
        folder = _teacher_run(config, out=out).folder
        trained = finished_result(folder) is not None
        config = with_teacher(config, str(folder.path) if trained else None)
        if not trained:
            notes.append("the teacher is to be trained first; that, and asking it, is not in these figures")
    # Asked as if nothing were remembered: a plan fills no cache.
    config = config.model_copy(update={"distill": config.distill.model_copy(update={"cache": None})})
    with torch.random.fork_rng():
        document = plan_run(config, open_splits(config))
    return {**document, "notes": [*document["notes"], *notes]}


def open_splits(config: RunConfig, *, verify: Collection[str] = ()) -> DataSplits:
    """Open the data of a run; verify: roles whose pictures are all read once now (see `open_data`)."""
    data = config.data
    return open_data(
        data.source,
        val_fraction=data.val_fraction,
        split_seed=data.split_seed,
        fraction=data.fraction,
        fraction_seed=data.fraction_seed,
        bad=data.bad,
        max_pixels=data.max_pixels,
        verify=verify,
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
        classes; a few are generated otherwise.
    tolerance: largest difference of a logit over the largest logit; default 1e-5, float32. against, data and
        tolerance imply check.
    Returns the report as plain JSON values: read and written (tensors matched, reshaped, left_over, missing),
    round_trip, not_kept, other_settings, check, passed. Where passed is false, target was not written.
    Raises UsageError and IsopatchError, with nothing written, for what is refused.
    """
    wanted, place = as_format(to), Path(target)
    limit = conversion.as_tolerance(tolerance)
    if split is not None and data is None:
        raise UsageError("--split names a part of --data: give both")
    conversion.ready(wanted, place, source, overwrite=overwrite)
    opened = open_weights(source, name, arguments=arguments, partial=partial, ema=ema)
    compared = None
    if check or any(given is not None for given in (against, data, tolerance)):
        compared = conversion.Check(against=None if against is None else str(against), tolerance=limit)
    if data is not None:
        spec = opened.model.spec
        _, chosen, pictures = split_of(source, data, split, "fail")
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
