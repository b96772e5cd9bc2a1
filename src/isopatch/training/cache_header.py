"""What a teacher cache is of: `cache.json`, checked against what it is opened for.

The fingerprint holds everything that the teacher's answers depend on. Pictures that changed under the same
names and sizes are found by a digest of their pixels where they are kept in memory; where they are not, files
that were written anew are said.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isopatch.errors import UsageError
from isopatch.files import create_file
from isopatch.training.answer_coding import AnswerCoding

log = logging.getLogger("isopatch")

FORMAT = "isopatch-teacher-cache-2"
HEADER = "cache.json"


@dataclass(frozen=True)
class Pictures:
    """The training pictures beside their fingerprint of names, sizes and labels.

    pixels: a digest of what they hold, None where they are not in memory. state: changes when a file is
    written anew, even with what it held before.
    """

    pixels: str | None
    state: str | None


@dataclass(frozen=True)
class Header:
    """The content of `cache.json`. tolerance: what the coding was chosen for; None: a number was given."""

    fingerprint: Mapping[str, Any]
    pictures: Pictures
    coding: AnswerCoding
    tolerance: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values with a checksum over them."""
        held = {"format": FORMAT, **asdict(self)}
        return {**held, "sha256": _digest(held)}


def require_writable(folder: Path) -> None:
    """Raise UsageError where no cache can be kept in `folder`, before anything is trained."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        raise UsageError(f"distill.cache: {folder} is a file; give a folder") from None
    except OSError as error:
        raise UsageError(
            f"distill.cache: cannot write to {folder}: {error.strerror}; give another folder"
        ) from None


def read_header(folder: Path) -> Header | None:
    """Return what the cache in `folder` is of; None where the folder is empty or not there.

    Raises UsageError for a folder of other things, a cache of another version, and a damaged header.
    """
    file = folder / HEADER
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _require_empty(folder)
        return None
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from None
    if not isinstance(document, dict):
        raise _damaged(file, "it holds no header")
    if document.get("format") != FORMAT:
        raise UsageError(f"distill.cache: {file} is not a teacher cache of this version; give another folder")
    if document.pop("sha256", None) != _digest(document):
        raise _damaged(file, "its checksum differs")
    return Header(
        document["fingerprint"],
        Pictures(**document["pictures"]),
        AnswerCoding(**document["coding"]),
        document["tolerance"],
    )


def write_header(folder: Path, header: Header) -> bool:
    """Create it as `files.create_file` does; False where another process was faster."""
    folder.mkdir(parents=True, exist_ok=True)
    return create_file(folder / HEADER, json.dumps(header.to_json(), indent=1).encode())


def require_same(
    header: Header,
    folder: Path,
    fingerprint: Mapping[str, Any],
    pictures: Pictures,
    *,
    temperature: float | None,
    top_k: int | None,
    tolerance: float,
) -> None:
    """Raise UsageError where the cache is of other answers than these, or keeps less of them.

    temperature: of the soft loss; None: there is none, so it makes no difference what the coding moves.
    """
    differing = _differences(header.fingerprint, fingerprint)
    coding = header.coding
    if None not in (header.pictures.pixels, pictures.pixels):
        if header.pictures.pixels != pictures.pixels:
            differing.append("the pictures are others (their names and sizes are the same)")
    elif header.pictures.state != pictures.state and not differing:
        log.warning(
            "distill.cache: the data's files were written anew since %s was filled (names, sizes and labels "
            "are the same); its answers are right if the pictures are the same",
            folder,
        )
    if top_k is not None:
        if min(top_k, coding.num_classes) != coding.kept:
            differing.append(f"cache_top_k was {coding.kept}, now {top_k}")
    elif coding.temperature is not None and temperature is not None:
        if header.tolerance is None:
            differing.append(f"cache_top_k was {coding.kept}, and is not given now")
        elif header.tolerance > tolerance:
            differing.append(f"cache_tolerance was {header.tolerance:g}, now {tolerance:g}")
    if None not in (coding.temperature, temperature) and coding.temperature != temperature:
        differing.append(f"temperature was {coding.temperature:g}, now {temperature:g}")
    if differing:
        raise UsageError(
            f"distill.cache: {folder} is of something else: {'; '.join(differing[:4])}; give another folder, "
            f"or make these the same"
        )


def _require_empty(folder: Path) -> None:
    # A header half written, by a process that begins this cache too or was killed at it, is not one.
    begun = f".{HEADER}."
    if folder.is_dir() and any(not file.name.startswith(begun) for file in folder.iterdir()):
        raise UsageError(
            f"distill.cache: {folder} holds other files and no teacher cache (no {HEADER}); give a folder of "
            f"its own"
        )


def _damaged(file: Path, why: str) -> UsageError:
    return UsageError(
        f"distill.cache: {file} is damaged ({why}): delete the folder, and the teacher is asked again"
    )


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif key in ("teacher", "data"):
            lines.append(f"the {key} is another one")
        else:
            follows = " (it follows --seed: --data_seed keeps it)" if key == "data_seed" else ""
            lines.append(f"{prefix}{key} was {old!r}, now {new!r}{follows}")
    return lines
