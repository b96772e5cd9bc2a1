"""The command line: thin verbs over the Python interface. Heavy imports happen inside the verbs.

Results go to stdout, messages to stderr. An error is one line (what, where, what to do) unless `--debug`.
Exit codes: `isopatch.errors`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isopatch.cli_parser import parse
from isopatch.errors import EXIT_DONE, EXIT_FAILURE, EXIT_SIGINT, GateFailed, IsopatchError, UsageError

if TYPE_CHECKING:
    from isopatch.recipes.default import DefaultChoice
    from isopatch.training.config import DataConfig, RunConfig

log = logging.getLogger("isopatch")


class _ToStderr(logging.Handler):
    """Prints messages on whatever stderr is now, unlike StreamHandler, which keeps the one it began with."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "shown_elsewhere", False):
            print(self.format(record), file=sys.stderr, flush=True)


_MESSAGES = _ToStderr()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    _log_to_stderr()
    try:
        try:
            arguments = parse(argv)
            return VERBS[arguments.verb](arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        return _fail(error)


def _fail(error: BaseException) -> int:
    """Print an error as one line per problem and return the exit code."""
    code = EXIT_FAILURE
    if isinstance(error, IsopatchError):
        message, code = str(error), error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        message, code = "interrupted", EXIT_SIGINT
    elif isinstance(error, MemoryError):
        message = "out of memory; try a smaller --batch-size, picture or model"
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        first = next(iter(str(error).strip().splitlines()), "")
        message = f"{type(error).__name__}: {first} (--debug shows where)"
    for line in message.splitlines():
        print(f"isopatch: error: {line}", file=sys.stderr)
    return code


def _log_to_stderr() -> None:
    log.addHandler(_MESSAGES)
    log.setLevel(logging.INFO)


def _emit(arguments: argparse.Namespace, document: Any, text: Callable[[Any], str]) -> None:
    """Print a result on stdout: as JSON with --json, else in words."""
    print(json.dumps(document, indent=1, allow_nan=False) if arguments.json else text(document))


# --- train, config -------------------------------------------------------------------------------------


def _configuration(arguments: argparse.Namespace) -> RunConfig:
    from isopatch.recipes.resolve import resolve

    notes: list[str] = []
    flags = {key: getattr(arguments, key) for key in ("weights", "seed", "epochs", "threads")}
    flags["data.bad"] = arguments.bad
    flags["distill.teacher"] = arguments.teacher
    run = _run_to_continue(arguments)
    config = resolve(
        model=arguments.model,
        recipe=arguments.recipe,
        data=arguments.data,
        config_file=None if arguments.config is None else Path(arguments.config),
        overrides=[*((key, text) for key, text in flags.items() if text is not None), *arguments.settings],
        choose_for=_default_choice,
        notes=notes,
        # A file says everything and is held against the run's; flags say what is to be different in it.
        started_with=None if run is None or arguments.config is not None else _stored(run),
    )
    for note in notes:
        log.info("%s", note)
    return config


def _stored(run: Path) -> RunConfig:
    from isopatch.training.runfolder import stored_config

    return stored_config(run)


def _run_to_continue(arguments: argparse.Namespace) -> Path | None:
    """The folder of an existing run that --resume asks for."""
    resume = getattr(arguments, "resume", None)
    folder = arguments.out if resume == "auto" else resume
    return Path(folder) if folder is not None and Path(folder, "config.yaml").is_file() else None


def _default_choice(data: DataConfig) -> DefaultChoice:
    from isopatch.api import default_choice

    return default_choice(data)


def _config(arguments: argparse.Namespace) -> int:
    from isopatch.recipes.resolve import dump_config

    config = _configuration(arguments)
    _emit(arguments, config.model_dump(mode="json"), lambda _: dump_config(config).rstrip())
    return EXIT_DONE


def _train(arguments: argparse.Namespace) -> int:
    from isopatch import cli_text

    if arguments.max_minutes is not None and not arguments.max_minutes > 0:
        raise UsageError(f"--max-minutes {arguments.max_minutes:g}: give a time above 0")
    if arguments.dry_run and arguments.resume:
        raise UsageError("--dry-run plans a new run and writes nothing; leave --resume out")
    config = None if _continues_as_it_was(arguments) else _configuration(arguments)
    from isopatch import api

    if arguments.dry_run:
        assert config is not None
        _emit(arguments, api.plan(config), cli_text.plan)
        return EXIT_DONE
    result = api.train(
        config,
        out=arguments.out,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        max_minutes=arguments.max_minutes,
    )
    document = {
        "path": str(result.path),
        "state": result.state,
        "step": result.step,
        "total_steps": result.total_steps,
        "exit_code": result.exit_code,
        "summary": result.summary,
    }
    _emit(arguments, document, cli_text.trained)
    return result.exit_code


def _continues_as_it_was(arguments: argparse.Namespace) -> bool:
    """Whether the command names a run that exists and says nothing about its configuration."""
    asked = ("data", "model", "recipe", "config", "weights", "seed", "epochs", "threads", "bad", "teacher")
    if arguments.resume is None or arguments.settings or any(getattr(arguments, key) for key in asked):
        return False
    return arguments.resume != "auto" or _run_to_continue(arguments) is not None


# --- eval, predict, report -----------------------------------------------------------------------------


def _eval(arguments: argparse.Namespace) -> int:
    from isopatch import cli_text

    gate = arguments.min_acc
    if gate is not None and not 0 <= gate <= 1:
        raise UsageError(f"--min-acc {gate:g}: give a share between 0 and 1, such as 0.95")
    if arguments.sizes is not None:
        return _eval_sizes(arguments)
    for option in ("position_resize", "plot"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')} says something about --sizes: give those too")
    from isopatch import api

    evaluation = api.evaluate_checkpoint(
        arguments.checkpoint,
        arguments.data,
        split=arguments.split,
        name=arguments.model,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        device=arguments.device,
        precision=arguments.precision,
        bad=arguments.bad,
        threads=arguments.threads,
        teacher=arguments.teacher,
        baseline=arguments.baseline,
    ).to_json()
    _emit(arguments, evaluation, cli_text.evaluation)
    if gate is not None and evaluation["top1"] < gate:
        raise GateFailed(f"top-1 {evaluation['top1']:.4f} is below --min-acc {gate:g}")
    return EXIT_DONE


def _eval_sizes(arguments: argparse.Namespace) -> int:
    from isopatch import cli_text

    if arguments.min_acc is not None:
        raise UsageError(
            "--min-acc is a gate on one evaluation, --sizes makes several: leave one of them out"
        )
    sizes = [_image_size(text.strip(), "--sizes") for text in arguments.sizes.split(",")]
    from isopatch.report.sizes_plot import default_file, plot_file, write_sizes_plot

    file = None if arguments.plot is None else plot_file(arguments.plot)
    from isopatch.eval_sizes import evaluate_sizes

    document = evaluate_sizes(
        arguments.checkpoint,
        arguments.data,
        sizes,
        split=arguments.split,
        name=arguments.model,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        device=arguments.device,
        precision=arguments.precision,
        bad=arguments.bad,
        threads=arguments.threads,
        position_resize=arguments.position_resize or "deit",
    )
    file = file or default_file(document)
    write_sizes_plot(document, file)
    _emit(arguments, {**document, "plot": str(file)}, cli_text.sizes)
    return EXIT_DONE


def _predict(arguments: argparse.Namespace) -> int:
    from isopatch import cli_text, predict

    files = None if arguments.out else predict.expand_inputs(arguments.paths)
    predictor = predict.Predictor(
        arguments.checkpoint,
        name=arguments.model,
        device=arguments.device,
        top_k=arguments.top_k,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
    )
    if files is None:
        from isopatch.predict_file import predict_to_file

        written = predict_to_file(predictor, arguments.paths, Path(arguments.out))
        _emit(arguments, written, cli_text.predicted)
        return EXIT_DONE
    unreadable = 0
    for prediction in predictor.stream(files):
        unreadable += prediction.error is not None
        print(cli_text.prediction(prediction, as_json=arguments.json))
    if unreadable == len(files):
        raise IsopatchError(f"none of the {unreadable} inputs could be read as a picture")
    return EXIT_DONE


def _convert(arguments: argparse.Namespace) -> int:
    from isopatch import cli_text
    from isopatch.recipes.reading import parse_value

    given = {key.removeprefix("model."): parse_value(text) for key, text in arguments.settings}
    if given and arguments.model is None:
        raise UsageError("--model.ARGUMENT VALUE: name the model too, with --model NAME")
    from isopatch import api

    report = api.convert(
        arguments.source,
        arguments.target,
        to=arguments.to,
        name=arguments.model,
        arguments=given,
        check=arguments.check or arguments.tolerance is not None,
        against=arguments.against,
        data=arguments.data,
        split=arguments.split,
        tolerance=arguments.tolerance,
        overwrite=arguments.overwrite,
        partial=arguments.partial,
        ema=arguments.ema,
    )
    _emit(arguments, report, cli_text.converted)
    if not report["passed"]:
        error, limit = report["check"]["relative_error"], report["check"]["tolerance"]
        raise GateFailed(
            f"relative error {error:.1e} is above --tolerance {limit:g}: {arguments.target} was not written"
        )
    return EXIT_DONE


def _report(arguments: argparse.Namespace) -> int:
    runs = [Path(run) for run in arguments.runs]
    out = None if arguments.out is None else Path(arguments.out)
    if len(runs) == 1:
        from isopatch.report.run_page import write_run_report

        page = write_run_report(runs[0], out)
    else:
        from isopatch.report.compare_page import write_comparison

        page = write_comparison(runs, out or runs[0].resolve().parent / "comparison.html")
    _emit(arguments, {"report": str(page)}, lambda document: str(document["report"]))
    return EXIT_DONE


# --- models, export, data, doctor, demo ----------------------------------------------------------------


def _models_list(arguments: argparse.Namespace) -> int:
    from isopatch.models.render import list_rows, render_list

    _emit(arguments, list_rows(), render_list)
    return EXIT_DONE


def _models_show(arguments: argparse.Namespace) -> int:
    given, size = _changes(arguments)
    from isopatch.models.describe import describe
    from isopatch.models.render import render_show

    _emit(arguments, describe(arguments.name, image_size=size, arguments=given), render_show)
    return EXIT_DONE


def _changes(arguments: argparse.Namespace) -> tuple[dict[str, Any], int | tuple[int, int] | None]:
    """What --model.ARGUMENT and --image-size change in a model."""
    from isopatch.recipes.reading import parse_size, parse_value

    given = {key.removeprefix("model."): parse_value(text) for key, text in arguments.settings}
    if "image_size" in given:
        given["image_size"] = parse_size(given["image_size"])
    return given, None if arguments.image_size is None else _image_size(arguments.image_size)


def _image_size(text: str, option: str = "--image-size") -> int | tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text}: give pixels, as in 384, or rows x columns, as in 96x128")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def _export(arguments: argparse.Namespace) -> int:
    given, size = _changes(arguments)
    from isopatch import cli_text
    from isopatch.export.open import spec_of
    from isopatch.export.source.render import render_short, render_source
    from isopatch.export.write import write_export

    spec = spec_of(arguments.source, name=arguments.model, image_size=size, arguments=given)
    source = render_short(spec) if arguments.short else render_source(spec)
    if arguments.out is not None:
        write_export(Path(arguments.out), source.encode(), overwrite=arguments.overwrite)
    document = {
        "model": spec.name,
        "architecture": spec.architecture,
        "to": arguments.to,
        "out": arguments.out,
        "lines": source.count("\n"),
        "source": source,
    }
    _emit(arguments, document, cli_text.exported)
    return EXIT_DONE


def _data_check(arguments: argparse.Namespace) -> int:
    from isopatch.data.check import check_data
    from isopatch.data.check_text import render_check

    _emit(arguments, check_data(arguments.data, max_pixels=arguments.max_pixels), render_check)
    return EXIT_DONE


def _doctor(arguments: argparse.Namespace) -> int:
    from isopatch import cli_text
    from isopatch.doctor import examine

    _emit(arguments, examine(), cli_text.examined)
    return EXIT_DONE


def _demo(arguments: argparse.Namespace) -> int:
    from isopatch import cli_text
    from isopatch.demo import run_demo

    result = run_demo(arguments.out, seed=arguments.seed, say=lambda text: log.info("%s", text))
    document = {
        "accuracies": result.accuracies,
        "report": str(result.report),
        "runs": [str(run) for run in result.runs],
    }
    _emit(arguments, document, cli_text.demonstrated)
    return EXIT_DONE


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "config": _config,
    "eval": _eval,
    "predict": _predict,
    "convert": _convert,
    "report": _report,
    "models list": _models_list,
    "models show": _models_show,
    "export": _export,
    "data check": _data_check,
    "doctor": _doctor,
    "demo": _demo,
}
