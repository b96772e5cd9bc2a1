"""The verbs `train` and `config`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from isopatch.cli.emit import emit
from isopatch.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from isopatch.recipes.default import DefaultChoice
    from isopatch.training.config import DataConfig, RunConfig

log = logging.getLogger("isopatch")

MACHINE = ("threads", "precision", "kernels")


def _configuration(arguments: argparse.Namespace) -> RunConfig:
    from isopatch.recipes.resolve import resolve

    notes: list[str] = []
    flags = {key: getattr(arguments, key) for key in ("weights", "seed", "epochs", *MACHINE)}
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


def config(arguments: argparse.Namespace) -> int:
    """Print the configuration a training would use."""
    from isopatch.recipes.resolve import dump_config

    config = _configuration(arguments)
    emit(arguments, config.model_dump(mode="json"), lambda _: dump_config(config).rstrip())
    return EXIT_DONE


def train(arguments: argparse.Namespace) -> int:
    """Train, plan a training, or go on with one."""
    from isopatch.cli import text

    if arguments.max_minutes is not None and not arguments.max_minutes > 0:
        raise UsageError(f"--max-minutes {arguments.max_minutes:g}: give a time above 0")
    if arguments.dry_run and arguments.resume:
        raise UsageError("--dry-run plans a new run and writes nothing; leave --resume out")
    config = None if _continues_as_it_was(arguments) else _configuration(arguments)
    from isopatch import api

    if arguments.dry_run:
        assert config is not None
        emit(arguments, api.plan(config, out=arguments.out), text.plan)
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
    emit(arguments, document, text.trained)
    return result.exit_code


def _continues_as_it_was(arguments: argparse.Namespace) -> bool:
    """Whether the command names a run that exists and says nothing about its configuration.

    Raises UsageError where it says nothing, and the run in the folder ended before its settings were kept.
    """
    asked = ("data", "model", "recipe", "config", "weights", "seed", "epochs", "bad", "teacher", *MACHINE)
    if arguments.resume is None or arguments.settings or any(getattr(arguments, key) for key in asked):
        return False
    begun = (
        arguments.resume == "auto" and arguments.out is not None and Path(arguments.out, ".lock").is_file()
    )
    if begun and _run_to_continue(arguments) is None:
        raise UsageError(
            f"{arguments.out}: the run in it ended before it had begun, and its settings were not kept; "
            f"repeat the whole command, with --resume auto"
        )
    return arguments.resume != "auto" or _run_to_continue(arguments) is not None
