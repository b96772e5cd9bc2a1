"""The command line: thin verbs over the Python interface. Heavy imports happen inside the verbs.

Results go to stdout, messages to stderr. An error is one line (what, where, what to do) unless `--debug`.
Exit codes: `isopatch.errors`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from isopatch.cli import benching, explaining, measuring, models, other, studying, training
from isopatch.cli.parser import parse
from isopatch.errors import EXIT_DONE, EXIT_FAILURE, EXIT_SIGINT, IsopatchError

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


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": training.train,
    "config": training.config,
    "eval": measuring.evaluate,
    "predict": measuring.predict,
    "explain": explaining.explain,
    "convert": models.convert,
    "report": measuring.report,
    "models list": models.models_list,
    "models show": models.models_show,
    "export": models.export,
    "bench": benching.bench,
    "data check": other.data_check,
    "data pack": other.data_pack,
    "data bench": other.data_bench,
    "study list": studying.study_list,
    "study plan": studying.study_plan,
    "study run": studying.study_run,
    "study status": studying.study_status,
    "study report": studying.study_report,
    "study query": studying.study_query,
    "doctor": other.doctor,
    "demo": other.demo,
}
