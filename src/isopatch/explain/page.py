"""Explanations as files: each figure, one page that holds them all, and the numbers as JSON."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from isopatch.errors import UsageError
from isopatch.explain.contract import Figure
from isopatch.explain.made import Made
from isopatch.files import replace_file, to_json
from isopatch.report.render import write_page

PAGE = "explanations.html"
NUMBERS = "explanations.json"
_VARIABLES = {"--muted": "#626a78", "--line": "#e2e5ea", "--ink": "#17191e", "--card": "#ffffff"}


def write_files(folder: Path, document: Mapping[str, Any], made: Sequence[Made]) -> dict[str, Any]:
    """Write the figures, the page and the numbers into a folder; return the document with their files.

    document: about the model and the pictures, as for `describe`. Each file is replaced in one rename.
    Raises UsageError where the folder cannot be written.
    """
    whole = {**document, "page": str(folder / PAGE), "explanations": [describe(one) for one in made]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # First, because it refuses a page that is not ours: nothing else has been touched then.
        write_page(
            "explain.html.j2", folder / PAGE, {**document, "sections": [_section(one) for one in made]}
        )
        _clear(folder)
        for one in made:
            for figure in one.figures:
                replace_file(folder / file_name(one, figure), content_of(figure))
        replace_file(folder / NUMBERS, to_json(whole))
    except OSError as error:
        raise UsageError(f"{folder}: cannot write there: {error.strerror}; choose another --out") from None
    return whole


def _clear(folder: Path) -> None:
    """Delete the figures that an earlier call wrote here, as its numbers name them; nothing else."""
    try:
        before = json.loads((folder / NUMBERS).read_bytes())
        names = {figure["file"] for one in before["explanations"] for figure in one["figures"]}
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing of ours is there
    for name in names:
        if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]+\.(png|svg)", name):
            (folder / name).unlink(missing_ok=True)


def describe(one: Made) -> dict[str, Any]:
    """Return one explanation and its figures as plain values, the figures' files by name."""
    return {
        "name": one.explanation.name,
        "question": one.explanation.question,
        "source": one.explanation.source,
        "skipped": one.skipped,
        "figures": [
            {
                "name": figure.name,
                "title": figure.title,
                "caption": figure.caption,
                "file": file_name(one, figure),
                "warning": figure.warning,
                "data": dict(figure.data),
            }
            for figure in one.figures
        ],
    }


def file_name(one: Made, figure: Figure) -> str:
    """Return the name of a figure's file."""
    return f"{one.explanation.name}-{figure.name}.{'svg' if figure.svg is not None else 'png'}"


def content_of(figure: Figure) -> bytes:
    """Return a figure as a file of its own: an inline SVG gets its namespace and the light page's colours."""
    if figure.png is not None:
        return figure.png
    assert figure.svg is not None
    text = str(figure.svg)
    for name, colour in _VARIABLES.items():
        text = text.replace(f"var({name})", colour)
    head = text[text.index("<svg") :].split(">", 1)[0]
    if "xmlns=" not in head:
        text = text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return text.encode()


def _section(one: Made) -> dict[str, Any]:
    """Return what the page shows of an explanation; a caption that figures in a row share is said once."""
    figures: list[dict[str, Any]] = []
    for figure in one.figures:
        repeated = bool(figures) and figures[-1]["said"] == figure.caption
        figures.append(
            {
                "title": figure.title,
                "said": figure.caption,
                "caption": None if repeated else figure.caption,
                "warning": figure.warning,
                "svg": None if figure.svg is None else Markup(inline(str(figure.svg))),
                "png": None if figure.png is None else base64.b64encode(figure.png).decode("ascii"),
            }
        )
    failed = sum(figure.warning is not None for figure in one.figures)
    return {
        "name": one.explanation.name,
        "question": one.explanation.question,
        "source": one.explanation.source,
        "skipped": one.skipped,
        "figures": figures,
        "failed": failed,
        "pair": (one.explanation.name, one.skipped),
    }


def inline(svg: str) -> str:
    """Return an SVG without what only a file of its own needs."""
    return re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
