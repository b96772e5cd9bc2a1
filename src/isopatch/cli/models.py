"""The verbs `models list`, `models show`, `export` and `convert`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from isopatch.cli.emit import emit
from isopatch.errors import EXIT_DONE, GateFailed, UsageError


def models_list(arguments: argparse.Namespace) -> int:
    """List every name."""
    from isopatch.models.render import list_rows, render_list

    emit(arguments, list_rows(), render_list)
    return EXIT_DONE


def models_show(arguments: argparse.Namespace) -> int:
    """Show one model."""
    given, size = _changes(arguments)
    from isopatch.models.describe import describe
    from isopatch.models.render import render_show

    emit(arguments, describe(arguments.name, image_size=size, arguments=given), render_show)
    return EXIT_DONE


def _changes(arguments: argparse.Namespace) -> tuple[dict[str, Any], int | tuple[int, int] | None]:
    """What --model.ARGUMENT and --image-size change in a model."""
    return model_arguments(arguments), None if arguments.image_size is None else image_size(
        arguments.image_size
    )


def model_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of --model.ARGUMENT."""
    from isopatch.recipes.reading import parse_size, parse_value

    values = {key.removeprefix("model."): parse_value(text) for key, text in arguments.settings}
    if "image_size" in values:
        values["image_size"] = parse_size(values["image_size"])
    return values


def how_to_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """What every way to measure a checkpoint is told alike: which model it holds, and how to run it."""
    return {
        "name": arguments.model,
        "arguments": model_arguments(arguments),
        **{key: getattr(arguments, key) for key in ("batch_size", "workers", "device", "precision")},
        **{key: getattr(arguments, key) for key in ("kernels", "bad", "threads")},
    }


def image_size(text: str, option: str = "--image-size") -> int | tuple[int, int]:
    """Read pixels, as 384 or 96x128."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text}: give pixels, as in 384, or rows x columns, as in 96x128")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def export(arguments: argparse.Namespace) -> int:
    """Write a model as source."""
    given, size = _changes(arguments)
    from isopatch.cli import text
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
    emit(arguments, document, text.exported)
    return EXIT_DONE


def convert(arguments: argparse.Namespace) -> int:
    """Write weights in another project's format, compared where that is asked for."""
    from isopatch.cli import text

    given = model_arguments(arguments)
    if given and arguments.model is None:
        raise UsageError("--model.ARGUMENT VALUE: name the model too, with --model NAME")
    from isopatch import api

    report = api.convert(
        arguments.source,
        arguments.target,
        to=arguments.to,
        name=arguments.model,
        arguments=given,
        check=arguments.check,
        against=arguments.against,
        data=arguments.data,
        split=arguments.split,
        tolerance=arguments.tolerance,
        overwrite=arguments.overwrite,
        partial=arguments.partial,
        ema=arguments.ema,
    )
    emit(arguments, report, text.converted)
    if not report["passed"]:
        error, limit = report["check"]["relative_error"], report["check"]["tolerance"]
        raise GateFailed(
            f"relative error {error:.1e} is above --tolerance {limit:g}: {arguments.target} was not written"
        )
    return EXIT_DONE
