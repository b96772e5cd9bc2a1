"""Train through the command line and read back what the run measured."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from benchmarks.common import Child, Done, isopatch, parser, scrub


def run_options(doc: str | None, n: int) -> argparse.ArgumentParser:
    """Return the arguments of a script whose trainings stay in a folder and may be changed, for tests."""
    options = parser(doc, n=n)
    options.add_argument("--folder", type=Path, required=True, help="where the runs live; run again to go on")
    options.add_argument("--data", help="default: CIFAR-10")
    options.add_argument(
        "--changes", default="", help="arguments of `isopatch train` in place of the script's"
    )
    return options


def train(
    arguments: list[str], *, out: Path, cwd: Path, threads: int, timeout: float = 3600
) -> dict[str, Any]:
    """Run `isopatch train ARGUMENTS --out OUT` and return its accuracy, seconds and command.

    wall_seconds counts everything from start to exit: imports, decoding, training, final evaluation, report.
    """
    command = isopatch("train", *arguments, "--threads", str(threads), "--out", str(out), "--overwrite")
    done = _completed(command, cwd=cwd, threads=threads, timeout=timeout)
    return {**_told(out, command), "wall_seconds": round(done.seconds, 1)}


def train_or_continue(arguments: list[str], *, out: Path, threads: int) -> dict[str, Any]:
    """The same for a run that may have been interrupted, or finished, before: what is done is not done again.

    A run in the folder that was started with other arguments is refused, finished or not. training_seconds
    counts the loop of all its parts, so there is no wall time.
    """
    command = isopatch("train", *arguments, "--threads", str(threads), "--out", str(out), "--resume", "auto")
    _completed(command, cwd=out.parent, threads=threads, timeout=24 * 3600)
    return _told(out, command)


def _completed(command: list[str], *, cwd: Path, threads: int, timeout: float) -> Done:
    done = Child(command, cwd=cwd, threads=threads).wait(timeout)
    if done.code:
        raise SystemExit(f"training ended with code {done.code}: {done.stderr[-2000:]}")
    return done


def _told(out: Path, command: list[str]) -> dict[str, Any]:
    """What the summary of a finished run says, as a result file keeps it."""
    summary = json.loads((out / "summary.json").read_text())
    return {
        "command": scrub("isopatch " + shlex.join(command[3:])),
        "top1": summary["final"]["test"]["top1"],
        "macro_recall": summary["final"]["test"]["macro_recall"],
        "num_test": summary["final"]["test"]["num_images"],
        "selection": summary["selection"],
        "parameters": summary["parameters"],
        "macs": summary["macs"],
        "images_seen": summary["images_seen"],
        "epochs": summary["epochs"],
        "precision": summary["precision"],
        "kernels": summary["kernels"],
        "instruction_set": summary["instruction_set"],
        "threads": summary["threads"],
        "seed": summary["seed"],
        "training_seconds": round(summary["seconds"], 1),
        "train": summary["data"]["train"],
        "val": summary["data"]["val"],
        "distillation": summary["distillation"],
        "weights_sha256": summary["weights_sha256"],
    }
