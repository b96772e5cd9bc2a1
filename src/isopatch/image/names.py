"""File names as one printable line: what messages, reports and JSON show of a path."""

from __future__ import annotations

import os


def printable(path: str | bytes | os.PathLike[str]) -> str:
    """Return `path` as text without line breaks, control characters or undecodable bytes.

    Names on disk are bytes: they may hold newlines, terminal escapes or bytes that are no UTF-8. Those are
    shown as backslash escapes; every other character is kept.
    """
    text = os.fsdecode(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's stand-in for the undecodable byte code - 0xDC00
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
