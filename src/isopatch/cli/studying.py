"""The verbs `study list`, `study plan`, `study run`, `study status`, `study report`, `study query`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isopatch.cli import study_text
from isopatch.cli.emit import emit
from isopatch.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from isopatch.study.planned import Plan
    from isopatch.study.schema import Study

log = logging.getLogger("isopatch")


def study_list(arguments: argparse.Namespace) -> int:
    """List the built-in studies."""
    from isopatch.study.load import builtin_names, load_study

    studies = [load_study(name) for name in builtin_names()]
    rows = [{"name": study.name, "question": study.question, "paper": study.paper} for study in studies]
    emit(arguments, rows, study_text.listed)
    return EXIT_DONE


def study_plan(arguments: argparse.Namespace) -> int:
    """Show every run of a study and what it costs."""
    from isopatch.study.folder import begin
    from isopatch.study.planning import plan

    study = _load(arguments)

    def planner(former: Plan | None) -> Plan:
        begun = None if former is None else former.threads
        threads = begun if arguments.threads is None else arguments.threads
        return plan(study, measure=not arguments.no_measure, threads=threads, former=former)

    made = (
        planner(None)
        if arguments.out is None
        else begin(
            Path(arguments.out), study, planner, threads=arguments.threads, measure=not arguments.no_measure
        )
    )
    emit(arguments, made.to_json(), study_text.planned)
    return EXIT_DONE


def study_run(arguments: argparse.Namespace) -> int:
    """Run a study, or go on with one."""
    if arguments.max_minutes is not None and not arguments.max_minutes > 0:
        raise UsageError(f"--max-minutes {arguments.max_minutes:g}: give a time above 0")
    if arguments.in_process and (arguments.parallel > 1 or arguments.slurm is not None):
        raise UsageError("--in-process does one run at a time, here; leave out --parallel and --slurm")
    from isopatch.study.driver import run
    from isopatch.study.folder import begin, find_plan
    from isopatch.study.rows import write_results

    study = _load(arguments)
    folder = _folder(arguments, study)

    def planner(former: Plan | None) -> Plan:
        from isopatch.study.planning import plan  # torch: a study that was begun is gone on with without it

        return plan(study, threads=_threads(arguments, former, folder), former=former)

    made = begin(folder, study, planner, threads=_threads(arguments, find_plan(folder), folder))
    if arguments.parallel > 1 and any(planned.config["threads"] is None for planned in made):
        log.warning(
            "--parallel %d: this study was begun without a number of threads, so each run takes all cores; "
            "--threads is fixed with the study",
            arguments.parallel,
        )
    if arguments.slurm is not None:
        return _submit(arguments, made, folder)
    log.info("%s: %d runs in %s", study.name, len(made), folder)
    outcome = run(
        made,
        folder,
        parallel=arguments.parallel,
        only=arguments.only,
        retry_failed=arguments.retry_failed,
        max_minutes=arguments.max_minutes,
        runner=_in_this_process if arguments.in_process else None,
    )
    results = write_results(folder)
    document = {**outcome.status, "folder": str(folder), "results": str(results)}
    emit(arguments, {**document, "exit_code": outcome.exit_code}, study_text.status)
    return outcome.exit_code


def study_status(arguments: argparse.Namespace) -> int:
    """Show how far a study is."""
    from isopatch.study.state import status

    emit(arguments, status(arguments.folder), study_text.status)
    return EXIT_DONE


def study_report(arguments: argparse.Namespace) -> int:
    """Write the results table and the page of a study."""
    from isopatch.study.report import write_study_report
    from isopatch.study.rows import write_results

    write_results(arguments.folder)  # a driver that was killed has not
    page = write_study_report(Path(arguments.folder), None if arguments.out is None else Path(arguments.out))
    exported = []
    if arguments.export is not None:
        from isopatch.study.export import export_study

        exported = [str(path) for path in export_study(Path(arguments.folder), Path(arguments.export))]
    document = {"report": str(page), "exported": exported}
    emit(arguments, document, lambda document: "\n".join([document["report"], *document["exported"]]))
    return EXIT_DONE


def study_query(arguments: argparse.Namespace) -> int:
    """Ask the results table in SQL."""
    from isopatch.study.query import plain_rows, query, read_results

    rows = plain_rows(query(read_results(Path(arguments.folder)), arguments.sql))
    emit(arguments, rows, study_text.queried)
    return EXIT_DONE


def _load(arguments: argparse.Namespace) -> Study:
    from isopatch.study.load import load_study

    return load_study(
        arguments.study,
        small=arguments.small,
        data=arguments.data,
        seeds=arguments.seeds,
        equal=arguments.equal,
    )


def _folder(arguments: argparse.Namespace, study: Study) -> Path:
    """Where the study lies: --out, the folder that was named, or studies/NAME (or NAME-small).

    The small form of a study.yaml is another study than the folder's, and gets another folder.
    """
    from isopatch.study.folder import STUDIES, is_study_folder

    if arguments.out is not None:
        return Path(arguments.out)
    named = Path(arguments.study)
    name = f"{study.name}-small" if arguments.small else study.name
    return named if is_study_folder(named) and not arguments.small else STUDIES / name


def _threads(arguments: argparse.Namespace, former: Plan | None, folder: Path) -> int | None:
    """Threads of each run: as asked for, as begun, or this machine's cores shared by the runs at a time."""
    from isopatch.study.folder import has_begun

    if arguments.threads is not None:
        return int(arguments.threads)
    if former is not None and (former.threads is not None or has_begun(folder)):
        return former.threads
    if arguments.parallel == 1:
        return None
    from isopatch.training.hardware import available_cores

    return max(1, available_cores() // int(arguments.parallel))


def _submit(arguments: argparse.Namespace, plan: Plan, folder: Path) -> int:
    from isopatch.study.driver import chosen
    from isopatch.study.slurm import slurm_settings, submit
    from isopatch.study.state import failure_path

    runs = chosen(plan, arguments.only)
    if arguments.retry_failed:  # once, before the drivers begin: each would take its own turn
        for run in runs:
            failure_path(folder, run.id).unlink(missing_ok=True)
    more = [f"--parallel={arguments.parallel}", *(f"--only={pattern}" for pattern in arguments.only)]
    if arguments.max_minutes is not None:
        more.append(f"--max-minutes={arguments.max_minutes}")
    place = str(folder.absolute())
    jobs = submit(folder, slurm_settings(arguments.slurm), [place, *more], runs=len(runs))
    document: dict[str, Any] = {"folder": str(folder), "jobs": jobs}
    emit(arguments, document, study_text.submitted)
    return EXIT_DONE


def _in_this_process(argv: list[str]) -> int:
    from isopatch.cli import main

    return main(argv)
