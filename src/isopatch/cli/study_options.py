"""The options of `isopatch study list|plan|run|status|report|query`. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from isopatch.cli.options import DATA, count

STUDY = "name of a built-in study, a study.yaml, or the folder of a study"
FOLDER = "folder of a study"


def add_list(parser: argparse.ArgumentParser) -> None:
    """`study list` has no options."""


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Options of `isopatch study plan`."""
    _add_study(parser)
    parser.add_argument("--out", metavar="DIR", help="begin the study there; default: nothing is written")
    parser.add_argument("--no-measure", action="store_true", help="no short measurement, so no hours")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Options of `isopatch study run`."""
    _add_study(parser)
    parser.add_argument("--out", metavar="DIR", help="folder of the study; default studies/NAME")
    parser.add_argument(
        "--parallel", type=count(1), default=1, metavar="N", help="runs at a time on this machine; default 1"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="RUN", help="a run, or a pattern: 'kernel-size-3-*'"
    )
    parser.add_argument("--retry-failed", action="store_true", help="take up what failed before, once")
    parser.add_argument(
        "--max-minutes", type=float, metavar="N", help="save and stop after N minutes, exit code 75"
    )
    parser.add_argument(
        "--in-process", action="store_true", help="no process for each run: faster for very small runs"
    )
    parser.add_argument(
        "--slurm",
        metavar="KEY=VALUE,...",
        help="queue drivers as a SLURM array: partition=gpu,timeout_min=240,workers=4",
    )


def add_status(parser: argparse.ArgumentParser) -> None:
    """Options of `isopatch study status`."""
    parser.add_argument("folder", metavar="DIR", help=FOLDER)


def add_report(parser: argparse.ArgumentParser) -> None:
    """Options of `isopatch study report`."""
    parser.add_argument("folder", metavar="DIR", help=FOLDER)
    parser.add_argument("--out", metavar="FILE", help="default DIR/report.html")
    parser.add_argument(
        "--export", metavar="OUT", help="a folder for tables and plots without pictures or paths"
    )


def add_query(parser: argparse.ArgumentParser) -> None:
    """Options of `isopatch study query`."""
    parser.add_argument("folder", metavar="DIR", help=FOLDER)
    parser.add_argument("sql", metavar="SQL", help="'SELECT cell, avg(top1) FROM results GROUP BY cell'")


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help=STUDY)
    parser.add_argument("--data", metavar="DATA", help=f"in place of the study's own: {DATA}")
    parser.add_argument("--small", action="store_true", help="the study's small form, for a try in minutes")
    parser.add_argument(
        "--seeds",
        type=count(1),
        metavar="N",
        help="seeds 0 to N - 1 of every cell, in place of the study's own; more of a study begun add runs",
    )
    parser.add_argument(
        "--equal",
        type=float,
        metavar="AMOUNT",
        help="so many pictures, epochs, seconds or training FLOPs per run, in place of the study's own",
    )
    parser.add_argument(
        "--threads",
        type=count(1),
        metavar="N",
        help="CPU threads of each run; recorded: it changes last bits",
    )


STUDY_VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "list": ("the built-in studies, with what they ask", add_list),
    "plan": ("every run of a study: parameters, multiply-adds, steps, hours", add_plan),
    "run": ("run a study; run it again to go on, on as many machines as there are", add_run),
    "status": ("how far a study is: planned, done, failed, running", add_status),
    "report": ("write the results table and the page of a study", add_report),
    "query": ("ask the results table in SQL", add_query),
}
