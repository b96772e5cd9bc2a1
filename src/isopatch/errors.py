"""The errors a user can cause, each with the exit code the command line gives it.

This module imports nothing: every layer may raise these. They subclass the built-in exception a Python
caller would expect (`ValueError`, `RuntimeError`), so notebooks need not know them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_GATE = 3
EXIT_SAVED_EARLY = 75
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class IsopatchError(RuntimeError):
    """Something failed that a user can act on: one line saying what, where and what to do."""

    exit_code = EXIT_FAILURE


class UsageError(IsopatchError, ValueError):
    """The request itself is wrong: an unknown name, a bad value, parts that do not fit together."""

    exit_code = EXIT_USAGE


class GateFailed(IsopatchError):
    """A gate the user asked for (`--min-acc`) was not met; the results were still printed."""

    exit_code = EXIT_GATE


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the closest of `known`, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{found[0]}'?)" if found else ""
