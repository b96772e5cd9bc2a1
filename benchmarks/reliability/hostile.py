"""Give hostile files to every verb and flag that takes a path.

Claim: no file, whatever its name, makes `isopatch` run what is in it: the canary folder is never created;
what cannot be used is refused with one line and no traceback.
Control: opened without care (pickle.load, torch.load(weights_only=False), yaml.unsafe_load, np.load with
allow_pickle), the same files do create the canary.
Hardware: CPU. Time: about 2 minutes.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import environment, isopatch, make_pictures, parser, record, run, workspace
from benchmarks.reliability.hostile_files import CANARY, NO_PAYLOAD, hostile_files
from benchmarks.reliability.small_runs import CONVMIXER, arguments_of

SLOW = 30.0  # seconds: nothing here is worth more
MODEL = {"--model": "convmixer", "--model.image_size": "8", "--model.patch_size": "2", "--model.dim": "8"}
MODEL |= {
    "--model.depth": "1",
    "--model.kernel_size": "3",
    "--recipe": "small",
    "--epochs": "1",
    "--threads": "1",
}
TINY = [word for pair in MODEL.items() for word in pair]
NAMED = [word for key, value in MODEL.items() if key.startswith("--model") for word in (key, value)]


# --- the doors ------------------------------------------------------------------------------------------


def doors(good: str, picture: str) -> dict[str, Callable[[str], list[str]]]:
    """Every verb and flag that takes a path: path -> command line."""
    return {
        "train --weights": lambda p: ["train", "--data", "digits", *TINY, "--weights", p, "--out", "new"],
        "train --resume": lambda p: ["train", "--resume", p],
        "train --out --resume auto": lambda p: ["train", "--out", p, "--resume", "auto"],
        "train --out": lambda p: ["train", "--data", "digits", *TINY, "--out", p],
        "train --config": lambda p: ["train", "--config", p, "--out", "new"],
        "train --data": lambda p: ["train", "--data", p, "--out", "new"],
        "train --dry-run": lambda p: ["train", "--data", "digits", *TINY, "--weights", p, "--dry-run"],
        "config --config": lambda p: ["config", "--config", p],
        "config --data": lambda p: ["config", "--data", p],
        "config --weights": lambda p: ["config", *TINY, "--weights", p],
        "eval CHECKPOINT": lambda p: ["eval", p, "--data", "digits"],
        "eval --data": lambda p: ["eval", good, "--data", p],
        "predict CHECKPOINT": lambda p: ["predict", p, picture],
        "predict PATH": lambda p: ["predict", good, p],
        "predict --out": lambda p: ["predict", good, picture, "--out", p],
        "convert SRC": lambda p: ["convert", p, "new", "--to", "isopatch", *NAMED],
        "convert SRC --partial": lambda p: ["convert", p, "new", "--to", "timm", "--partial", *NAMED],
        "convert SRC --ema": lambda p: ["convert", p, "new", "--to", "isopatch", "--ema", *NAMED],
        "convert DST": lambda p: ["convert", good, p, "--to", "isopatch", "--overwrite"],
        "convert --against": lambda p: ["convert", good, "new", "--to", "isopatch", "--against", p],
        "convert --data": lambda p: ["convert", good, "new", "--to", "isopatch", "--data", p],
        "report RUN": lambda p: ["report", p, "--out", "page.html"],
        "report RUN RUN": lambda p: ["report", good, p, "--out", "page.html"],
        "models show": lambda p: ["models", "show", p],
        "data check": lambda p: ["data", "check", p],
        "demo --out": lambda p: ["demo", "--out", p],
    }


# (door, start of the file's name): may succeed, because the hostile file is not opened there, or is counted.
# A report reads a run's small files, never weights; data check reports unreadable pictures as a result.
MAY_SUCCEED = (
    ("config --weights", ""),
    ("config --data", ""),
    ("report", "run with"),
    ("eval CHECKPOINT", "run with"),
    ("predict CHECKPOINT", "run with"),
    ("train --resume", "run with"),
    ("train --out --resume auto", "run with"),
    ("train --weights", "run with"),
    ("train --dry-run", "run with"),
    ("data check", ""),
    ("predict --out", ""),
    ("convert SRC", "run with"),
    ("convert --against", "run with"),
    ("convert DST", "best with"),  # a checkpoint's two files, replaced as asked without being read
)


def may_succeed(door: str, name: str) -> bool:
    return any(door.startswith(d) and name.startswith(n) for d, n in MAY_SUCCEED)


def attempt(words: list[str], *, may_pass: bool) -> list[str]:
    """Run one command in this process and return what is wrong with how it ended."""
    from isopatch.cli import main

    canary = Path(CANARY)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException as error:  # a traceback for the user
            return [f"{type(error).__name__} escaped: {error}"]
    problems = []
    if canary.exists():
        problems.append("THE PAYLOAD RAN")
        canary.rmdir()
    errors = [line for line in err.getvalue().splitlines() if line.startswith("isopatch: error:")]
    if "Traceback" in err.getvalue():
        problems.append("traceback")
    if code == 0 and not may_pass:
        problems.append("not refused")
    several = "--config" in words  # a configuration's problems are listed, all at once
    if code != 0 and (code not in (1, 2) or not errors or (len(errors) > 1 and not several)):
        problems.append(f"exit code {code}, {len(errors)} error lines: {err.getvalue()[-300:]}")
    if errors and "--debug shows where" in errors[0]:
        problems.append(f"not explained: {errors[0]}")
    if any(len(line) > 1000 for line in errors):
        problems.append(f"an error line of {max(map(len, errors))} characters")
    return problems


CARELESS = """
import sys, pickle, yaml, numpy, torch, zipfile
path = sys.argv[1]
for read in (
    lambda: pickle.load(open(path, "rb")),
    lambda: torch.load(open(path, "rb"), weights_only=False),
    lambda: yaml.unsafe_load(open(path)),
    lambda: numpy.load(path, allow_pickle=True)["labels"],
    lambda: numpy.load(path, allow_pickle=True),
):
    try: read()
    except BaseException: pass
"""


def control(work: Path, paths: list[Path]) -> int:
    """How many of the files create the canary when they are opened without care."""
    alive = 0
    for path in paths:
        folder = work / "control"
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", CARELESS, str(path)], cwd=folder, capture_output=True, check=False
        )
        alive += (folder / CANARY).exists()
        shutil.rmtree(folder)
    return alive


def good_run(work: Path) -> Path:
    """A finished run, trained by command."""
    options = {**CONVMIXER, "--data": "digits", "--model.dim": "8", "--model.depth": "1"}
    done = run(*arguments_of(options, out="good", epochs=1, every_steps=10), cwd=work)
    if done.code != 0:
        raise RuntimeError(f"the run to start from failed: {done.stderr[-500:]}")
    return work / "good"


def sweep(
    work: Path, good: Path, *, doors_wanted: Callable[[str], bool], files_wanted: Callable[[str], bool]
) -> tuple[int, list[dict[str, Any]], dict[str, Path]]:
    """Give every file to every door; returns tries, what went wrong, and the files."""
    picture = work / "picture"
    make_pictures(picture, classes=["x"], per_class=1, side=8)
    files = hostile_files(work / "hostile", good)
    table = doors(str(good), str(picture / "x" / "000.jpg"))
    wrong, tries = [], 0
    before = Path.cwd()
    os.chdir(work)
    try:
        attempt(["predict", str(good), str(picture)], may_pass=True)  # imports what the doors need
        for name, path in files.items():
            for door, command in table.items():
                if not (doors_wanted(door) and files_wanted(name)):
                    continue
                if door == "demo --out" and path.is_dir():
                    continue  # would train for a minute into a folder of its own below it
                copy = work / "copy" / path.name  # a door may change what it is given
                shutil.rmtree(work / "copy", ignore_errors=True)
                copy.parent.mkdir()
                shutil.copytree(path, copy, symlinks=True) if path.is_dir() else shutil.copy(path, copy)
                shutil.rmtree(work / "new", ignore_errors=True)
                tries += 1
                asked = time.monotonic()
                problems = attempt(command(str(copy)), may_pass=may_succeed(door, name))
                if time.monotonic() - asked > SLOW:
                    problems.append(f"took {time.monotonic() - asked:.0f} s")
                if problems:
                    wrong.append({"door": door, "file": name, "problems": problems})
                    print(f"{door} <- {name}: {problems}", flush=True)
    finally:
        os.chdir(before)
    return tries, wrong, files


def main() -> int:
    given = parser(__doc__).parse_args()
    started = time.monotonic()
    with workspace("hostile") as work:
        good = good_run(work)
        tries, wrong, files = sweep(
            work, good, doors_wanted=lambda door: True, files_wanted=lambda name: True
        )
        payloads = [p for name, p in files.items() if p.is_file() and name not in NO_PAYLOAD]
        alive = control(work, payloads)
        command = isopatch("predict", str(files["zip-state.pth"]), "x.jpg")
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, check=False, env=environment()
        )
        if done.returncode not in (1, 2) or "Traceback" in done.stderr or (work / CANARY).exists():
            wrong.append(
                {"door": "a process of its own", "file": "zip-state.pth", "problems": [done.stderr[-300:]]}
            )
        ran = sum("THE PAYLOAD RAN" in entry["problems"] for entry in wrong)
    return record(
        "hostile",
        claim="Hostile files given to every verb and flag that takes a path: refused, no payload runs",
        measured=f"{ran} payloads ran in {tries:,} tries (unpickled, {alive} of {len(payloads)} run)",
        figure={
            "payloads_run": ran,
            "tries": tries,
            "files": len(files),
            "doors": len(doors("", "")),
            "badly_refused": len(wrong) - ran,
            "control_payloads_alive": alive,
            "control_of": len(payloads),
        },
        passed=not wrong and alive == len(payloads),
        n=tries,
        seed=None,
        started=started,
        out=given.out,
        files=sorted(files),
        wrong=wrong,
    )


if __name__ == "__main__":
    raise SystemExit(main())
