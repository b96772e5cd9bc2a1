"""Damage checkpoints bit by bit and fill the disk during a save.

Claim: every random bit flip and truncation in any file of a checkpoint is detected, the file is named, and
the checkpoint before it is used; on a full disk the save fails with one clear line and exit code 1, the
earlier checkpoints verify, and the run continues to the same bits once there is space.
Contrast: how many of the flips in weights `safetensors` alone notices.
Full disk: a small tmpfs in a mount namespace of its own; needs root or user namespaces.
Hardware: CPU. Time: about 2 minutes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Child,
    environment,
    fingerprint,
    isopatch,
    parser,
    record,
    run,
    step_folders,
    workspace,
)
from benchmarks.reliability.small_runs import VIT, arguments_of
from benchmarks.reliability.wrapped import LINGERING, read_mark

# (what the run does while the disk fills, its number, share of a checkpoint that still fits)
FILLS = [("step", 12, share) for share in (0.0, 0.2, 0.5, 0.8, 0.95)] + [("validation", 1, 0.0)]
EVERY_STEPS = 8
DISK_MB = 64


def arguments(out: str, **extra: str) -> list[str]:
    options = {**VIT, "--data": "digits", "--ema.decay": "0.9", "--resume": "auto"}
    return arguments_of(options, out=out, epochs=2, every_steps=EVERY_STEPS, **extra)


def unfinished_run(folder: Path) -> None:
    """Train a run that is stopped twice right after a step, so that it holds two checkpoints."""
    for _ in range(2):
        done = run(*arguments(folder.name), "--max-minutes", "1e-6", cwd=folder.parent)
        if done.code != 75:
            raise RuntimeError(f"exit code {done.code}: {done.stderr[-300:]}")


def damage(folder: Path, generator: random.Random, kind: str) -> Path:
    """Flip one bit of, or truncate, one file of a checkpoint; every file is as likely as any other."""
    victim = generator.choice(sorted(folder.iterdir()))
    raw = bytearray(victim.read_bytes())
    if kind == "flip":
        raw[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
    else:
        del raw[generator.randrange(len(raw)) :]
    victim.write_bytes(raw)
    return victim


def trial(source: Path, work: Path, generator: random.Random, kind: str) -> dict[str, Any]:
    """Damage the newest checkpoint of a copy and look for the latest one."""
    from safetensors.torch import load_file

    from isopatch.errors import IsopatchError
    from isopatch.training.checkpoint import find_latest

    copy = work / "trial"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy, symlinks=True)
    older, newest = sorted(p for p in copy.glob("step-*"))
    victim = damage(newest, generator, kind)
    alone: bool | None = None
    if victim.suffix == ".safetensors":
        try:
            load_file(victim)
            alone = False
        except Exception:  # whatever the format notices counts for it
            alone = True
    with captured_log() as log:
        try:
            found = find_latest(copy)
        except IsopatchError as error:
            return {"kind": kind, "file": victim.name, "ok": False, "why": str(error), "safetensors": alone}
    named = victim.name in log.getvalue()
    ok = found is not None and found.folder == older and named
    return {"kind": kind, "file": victim.name, "ok": ok, "safetensors": alone}


@contextlib.contextmanager
def captured_log() -> Any:
    """isopatch's log messages as text."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    log = logging.getLogger("isopatch")
    former, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield text
    finally:
        log.removeHandler(handler)
        log.propagate = former


def end_to_end(work: Path, generator: random.Random, n: int) -> list[str]:
    """Damage a checkpoint, resume by command: the damage is named and the result is the undamaged run's."""
    problems = []
    whole = run(*arguments("whole"), cwd=work)
    if whole.code != 0:
        return [f"the uninterrupted run failed: {whole.stderr[-300:]}"]
    for index in range(n):
        folder = work / f"damaged-{index}"
        shutil.copytree(work / "stopped", folder, symlinks=True)
        victim = damage(step_folders(folder)[-1], generator, ("flip", "truncation")[index % 2])
        done = run(*arguments(folder.name), cwd=work)
        if done.code != 0 or victim.name not in done.stderr or done.traceback:
            problems.append(f"{victim.name}: exit code {done.code}: {done.stderr[-200:]}")
        elif fingerprint(folder) != fingerprint(work / "whole"):
            problems.append(f"{victim.name}: another result")
    return problems


# --- full disk: this part runs in a mount namespace of its own ------------------------------------------


def namespace() -> list[str] | None:
    """The command that gives a process its own mounts, or None where the system allows none."""
    for words in (["unshare", "-m"], ["unshare", "-rm"]):
        probe = [*words, "sh", "-c", "mount -t tmpfs none /mnt"]
        try:
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                return words
        except OSError:
            return None
    return None


def full_disk(work: Path) -> list[dict[str, Any]] | str:
    """Fill a small disk during a save, with room for different shares of a checkpoint. A string: why not."""
    words = namespace()
    if words is None:
        return "skipped: neither root nor user namespaces may mount a tmpfs here"
    command = [*words, sys.executable, "-m", "benchmarks.reliability.damage", "--inside", str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if done.returncode != 0:
        return [{"fill": None, "problems": [done.stderr[-500:]]}]
    result: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return result


def inside(work: Path) -> int:
    """Mount the disk and run every case on it; prints their results as JSON."""
    disk = work / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(disk)], check=True)
    whole = run(*arguments("whole"), cwd=disk)
    results = [
        {"fill": "control: enough space", "problems": [] if whole.code == 0 else [whole.stderr[-300:]]}
    ]
    expected = fingerprint(disk / "whole")
    results += [{"fill": list(case), **filled(disk, *case, expected)} for case in FILLS]
    results.append({"fill": "at the start", **too_small(disk)})
    print(json.dumps(results))
    return 0


def filled(disk: Path, phase: str, occurrence: int, fill: float, expected: dict[str, Any]) -> dict[str, Any]:
    """Leave room for `fill` of a checkpoint while the run, with one checkpoint or two, is in a phase."""
    out, problems = f"fill-{phase}-{fill}", []
    linger = {"phase": phase, "occurrence": occurrence, "until": f"{out}.go"}
    spec = json.dumps({"mark": f"{out}.mark", "linger": linger})
    child = Child([sys.executable, "-m", "benchmarks.reliability.wrapped", spec, *arguments(out)], cwd=disk)
    while child.running and read_mark(disk / f"{out}.mark")[0] != LINGERING:
        time.sleep(0.02)
    saved = step_folders(disk / out)
    size = sum(f.stat().st_size for f in saved[-1].iterdir())
    (disk / f"{out}.go").touch()
    free = shutil.disk_usage(disk).free
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(4096, free - int(fill * size) - 4096))
    done = child.wait(60)
    lines = [line for line in done.stderr.splitlines() if "isopatch: error:" in line]
    if done.code != 1:
        problems.append(f"exit code {done.code}")
    if len(lines) != 1 or "disk full" not in lines[0] or "MB free" not in lines[0]:
        problems.append(f"message: {lines}")
    if done.traceback or "Logging error" in done.stderr:
        problems.append(f"traceback: {done.stderr[-400:]}")
    problems += intact(disk / out, saved)
    filler.unlink()
    resumed = run(*arguments(out), cwd=disk)
    if resumed.code != 0:
        problems.append(f"resume: exit code {resumed.code}: {resumed.stderr[-200:]}")
    elif fingerprint(disk / out) != expected:
        problems.append("resume: another result")
    shutil.rmtree(disk / out)
    return {"problems": problems, "message": lines[:1]}


def intact(folder: Path, saved: list[Path]) -> list[str]:
    """Problems of what is there after the failed save."""
    from isopatch.errors import IsopatchError
    from isopatch.training.checkpoint import verify

    problems = []
    for checkpoint in saved:
        try:
            verify(checkpoint)
        except IsopatchError as error:
            problems.append(f"previous checkpoint: {error}")
    rubbish = [p.name for p in (folder / "checkpoints").glob(".*.tmp-*")]
    return problems + [f"left behind: {name}" for name in rubbish]


def too_small(disk: Path) -> dict[str, Any]:
    """Start where not even one checkpoint fits: refused before the first step."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - 300_000)
    done = Child(isopatch(*arguments("small")), cwd=disk).wait(60)
    filler.unlink()
    lines = [line for line in done.stderr.splitlines() if "isopatch: error:" in line]
    right = done.code == 1 and len(lines) == 1 and "MB are free" in lines[0] and not done.traceback
    return {
        "problems": [] if right else [f"exit code {done.code}: {done.stderr[-300:]}"],
        "message": lines[:1],
    }


def main() -> int:
    options = parser(__doc__, n=400)
    options.add_argument("--inside", type=Path, help="(used by the harness itself)")
    given = options.parse_args()
    if given.inside is not None:
        return inside(given.inside)
    started, generator = time.monotonic(), random.Random(given.seed)
    with workspace("damage") as work:
        unfinished_run(work / "stopped")
        source = work / "stopped" / "checkpoints"
        kinds = ["flip" if i % 4 else "truncation" for i in range(given.n)]
        trials = [trial(source, work, generator, kind) for kind in kinds]
        commands = end_to_end(work, generator, 4)
        disk = full_disk(work)
    flips = [t for t in trials if t["kind"] == "flip" and t["safetensors"] is not None]
    disk_good = isinstance(disk, str) or not any(case["problems"] for case in disk)
    detected = sum(t["ok"] for t in trials)
    files = sorted({t["file"] for t in trials})
    return record(
        "damage",
        claim="Bit flips and truncations of checkpoints: all detected and named, the previous one used; "
        "a full disk during a save: previous checkpoint intact, one clear line, exit code 1",
        measured=f"{detected} of {given.n} detected",
        figure={
            "detected": detected,
            "of": given.n,
            "flips_in_weights_safetensors_alone_notices": sum(bool(t["safetensors"]) for t in flips),
            "of_flips_in_weights": len(flips),
            "resumed_by_command_with_the_same_result": 4 - len(commands),
            "full_disk_cases_right": disk if isinstance(disk, str) else sum(not c["problems"] for c in disk),
            "of_full_disk_cases": None if isinstance(disk, str) else len(disk),
        },
        passed=detected == given.n and not commands and disk_good,
        n=given.n,
        seed=given.seed,
        started=started,
        out=given.out,
        by_file={
            f: [sum(t["ok"] for t in trials if t["file"] == f), sum(t["file"] == f for t in trials)]
            for f in files
        },
        missed=[t for t in trials if not t["ok"]],
        commands=commands,
        full_disk=disk,
    )


if __name__ == "__main__":
    raise SystemExit(main())
