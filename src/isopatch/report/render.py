"""Templates to one self-contained file: everything escaped, nothing loaded, written in one rename."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from isopatch.errors import UsageError
from isopatch.files import replace_file
from isopatch.report.run_files import is_run
from isopatch.report.wording import percent

GENERATOR = b'<meta name="generator" content="isopatch">'  # as in base.html.j2: a page of ours
OWN_NAMES = ("report.html", "comparison.html")  # in a run folder these are ours, damaged or not
_HEAD_BYTES = 2048  # a page of ours says so at its start

_PNG_URI = re.compile(r"data:image/png;base64,([A-Za-z0-9+/]+={0,2})")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


def write_page(template: str, out: Path, values: dict[str, Any]) -> Path:
    """Render `template` to `out` and return it.

    Raises `UsageError` where the file cannot be written, is no .html, or exists and is no page of ours.
    """
    require_ours(out)
    text = environment().get_template(template).render(**values)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UsageError(f"{out}: cannot write the report: {error.strerror}; choose another file") from None
    return out


def require_ours(out: Path) -> None:
    """Refuse a target that would destroy what is not a page of ours."""
    if out.suffix.lower() != ".html":
        raise UsageError(f"{out}: a report is an .html file; give a name that ends in .html")
    if not out.exists() or (out.name in OWN_NAMES and out.is_file() and is_run(out.parent)):
        return
    try:
        ours = out.is_file() and GENERATOR in out.read_bytes()[:_HEAD_BYTES]
    except OSError as error:
        raise UsageError(f"{out}: cannot read what is there: {error.strerror}; choose another file") from None
    if not ours:
        raise UsageError(f"{out}: exists and is no isopatch report; choose another file or delete it first")


@cache
def environment() -> Environment:
    """Return the template environment: autoescape on, a forgotten value is an error."""
    return Environment(
        loader=PackageLoader("isopatch.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )


@dataclass(frozen=True)
class Picture:
    """One classified picture of a gallery. tiny: so few pixels that smoothing would blur them away."""

    thumbnail: str | None
    tiny: bool
    name: str
    label: str
    prediction: str
    confidence: str

    @property
    def right(self) -> bool:
        """Whether the prediction is the label."""
        return self.label == self.prediction


def picture(values: Mapping[str, Any]) -> Picture:
    """Make a gallery entry of untrusted values; a thumbnail that is no PNG data URI is left out.

    values: thumbnail, label, prediction, confidence and name, as in an evaluation's mistakes.
    """
    thumbnail = values.get("thumbnail")
    name, label, prediction = (str(values.get(key, "")) for key in ("name", "label", "prediction"))
    confidence = percent(values.get("confidence"), 1)
    match = _PNG_URI.fullmatch(thumbnail) if isinstance(thumbnail, str) else None
    try:
        content = base64.b64decode(match[1], validate=True) if match else b""
    except binascii.Error:
        content = b""
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) < 24:
        return Picture(None, False, name, label, prediction, confidence)
    width, height = struct.unpack(">II", content[16:24])
    tiny = max(width, height) <= 48
    return Picture(str(thumbnail), tiny, name, label, prediction, confidence)


def _visible(value: Any) -> Any:
    """Show control characters and direction overrides in text instead of obeying them."""
    if type(value) is str and _CONTROLS.search(value):
        return _CONTROLS.sub(lambda m: m[0].encode("unicode_escape").decode("ascii"), value)
    return value
