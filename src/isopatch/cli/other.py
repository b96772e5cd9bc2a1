"""The verbs `data check`, `doctor` and `demo`."""

from __future__ import annotations

import argparse
import logging

from isopatch.cli.emit import emit
from isopatch.errors import EXIT_DONE

log = logging.getLogger("isopatch")


def data_check(arguments: argparse.Namespace) -> int:
    """Read every file of a data set."""
    from isopatch.data.check import check_data
    from isopatch.data.check_text import render_check

    emit(arguments, check_data(arguments.data, max_pixels=arguments.max_pixels), render_check)
    return EXIT_DONE


def doctor(arguments: argparse.Namespace) -> int:
    """Show what this machine has."""
    from isopatch.cli import text
    from isopatch.doctor import examine

    emit(arguments, examine(), text.examined)
    return EXIT_DONE


def demo(arguments: argparse.Namespace) -> int:
    """Train two small models and write their report."""
    from isopatch.cli import text
    from isopatch.demo import run_demo

    result = run_demo(arguments.out, seed=arguments.seed, say=lambda text: log.info("%s", text))
    document = {
        "accuracies": result.accuracies,
        "report": str(result.report),
        "runs": [str(run) for run in result.runs],
    }
    emit(arguments, document, text.demonstrated)
    return EXIT_DONE
