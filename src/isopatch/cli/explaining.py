"""The verb `explain`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isopatch.cli.emit import emit
from isopatch.cli.models import model_arguments
from isopatch.errors import EXIT_DONE, UsageError


def explain(arguments: argparse.Namespace) -> int:
    """Show what a model has learned and what it looks at: files, and a page."""
    what = None
    if arguments.what is not None:
        what = [name.strip() for name in arguments.what.split(",") if name.strip()]
        if not what:
            raise UsageError("--what: give names of explanations, as in --what rollout,grad-cam")
    own = [(key, text) for key, text in arguments.settings if not key.startswith("model.")]
    arguments.settings = [row for row in arguments.settings if row[0].startswith("model.")]
    from isopatch.explaining import explain_checkpoint

    explained = explain_checkpoint(
        arguments.checkpoint,
        arguments.images,
        what=what,
        compare=arguments.compare or (),
        data=arguments.data,
        split=arguments.split,
        num_pictures=arguments.pictures,
        class_name=arguments.class_name,
        options=dict(own),
        out=arguments.out or default_folder(arguments.checkpoint),
        name=arguments.model,
        arguments=model_arguments(arguments),
        device=arguments.device,
        seed=arguments.seed,
    )
    emit(arguments, explained.document, explained_text)
    return EXIT_DONE


def default_folder(checkpoint: str) -> Path:
    """Return where the files go: in a run, or in the folder the command is given in."""
    from isopatch.report.run_files import is_run

    run = Path(checkpoint)
    return run / "explanations" if is_run(run) else Path("explanations")


def explained_text(document: Mapping[str, Any]) -> str:
    """Say what was made, what fails its checks, and what could not be made and why."""
    lines = []
    width = max(len(one["name"]) for one in document["explanations"])
    for one in document["explanations"]:
        if one["skipped"] is not None:
            lines.append(f"{one['name']:<{width}}  not made: {one['skipped']}")
            continue
        count = len(one["figures"])
        failed = sum(figure["warning"] is not None for figure in one["figures"])
        said = f"{count} figure{'s' * (count != 1)}"
        lines.append(f"{one['name']:<{width}}  {said}" + (f", {failed} not reliable" if failed else ""))
    return "\n".join([*lines, *(f"note: {note}" for note in document["notes"]), f"page: {document['page']}"])
