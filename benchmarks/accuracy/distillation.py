"""What a teacher adds: students trained alone and distilled, several seeds, against DeiT's table 3.

Claim: (deit) a DeiT 128 wide, 6 deep, patch 4, without a teacher, soft, hard, and hard through the token;
(convmixer) a ConvMixer-128/8 without a teacher (>= 75 %) and hard; on CIFAR-10, all 50,000 pictures, taught
by the published ResNet-56 (93.39 %) from a cache. Nothing is selected: the last weights count. Recorded:
mean, 95 % interval (t), paired differences, and for each step of the paper's order (hard + token > hard >
none ~ soft) whether it shows here and how certain that is; of the DeiT, every step has to show.
Every arm and seed sees the same pictures in the same order (one data seed); seeds differ in the first
weights. Restartable: what is finished under --folder is not run again, what was interrupted goes on.
Hardware: 2 CPU cores, two runs at a time on one thread each. Time: hours.
Command: ISOPATCH_DATA=... python -m benchmarks.accuracy.distillation deit|convmixer --folder DIR
    longer          --epochs 100 (--device cuda)
    a ViT teaches   --teacher runs/vit (a run, timm:NAME, NAME=FILE)
    who teaches better, a ViT or a convnet (DeiT's table 2)?   --teacher runs/convnet --other-teacher runs/vit
    fine-tuning     --finetune 48: both heads at 48 pixels afterwards, taught at 48 too
    in a minute     --data digits --image-size 8 --patch 2 --epochs 1 --seeds 1 --teacher RUN (a test does)
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.accuracy.training import train_or_continue
from benchmarks.common import data_root, parser, record

DEIT = "--model deit --model.dim 128 --model.depth 6 --model.num_heads 4 --model.patch_size {patch}"
CONVMIXER = (
    "--model convmixer --model.dim 128 --model.depth 8 --model.kernel_size 5 --model.patch_size {patch}"
)
TAUGHT = "--teacher {teacher} --distill.cache {cache}"
STUDENTS: dict[str, dict[str, str]] = {
    "deit": {
        "none": DEIT,
        "soft": f"{DEIT} {TAUGHT} --distill.kind soft --distill.token false",
        "hard": f"{DEIT} {TAUGHT} --distill.kind hard --distill.token false",
        "hard + token": f"{DEIT} {TAUGHT} --distill.kind hard --distill.token true",
    },
    "convmixer": {
        "none": CONVMIXER,
        "hard": f"{CONVMIXER} {TAUGHT} --distill.kind hard",
    },
}
# (better, worse or equal, what DeiT's table 3 says of it)
ORDER = {
    "deit": [("hard + token", "hard", ">"), ("hard", "none", ">"), ("soft", "none", "~")],
    "convmixer": [("hard", "none", ">")],
}
OTHER = " by the other teacher"
FLOOR = {"convmixer": ("none", 0.75)}


def main() -> int:
    """Run what is missing, then compare."""
    given = _options()
    started = time.monotonic()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in given.arms}
    jobs = [(arm, seed) for seed in range(given.seed, given.seed + given.seeds) for arm in runs]
    _prepare(given, folder)
    with ThreadPoolExecutor(given.parallel) as pool:
        in_turn = pool.map if given.parallel > 1 else map
        for (arm, seed), result in zip(
            jobs, in_turn(lambda job: _run(given, folder, *job), jobs), strict=True
        ):
            runs[arm].append(result)
            print(
                f"{arm}, seed {seed}: {result['top1']:.2%} in {result['training_seconds']:.0f} s", flush=True
            )
    if given.finetune:
        runs |= {f"{arm} at {given.finetune}": _finetuned(given, folder, arm) for arm in list(runs)}
    return _record(given, runs, started)


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("student", choices=STUDENTS)
    options.add_argument("--folder", type=Path, required=True, help="where the runs live; run again to go on")
    options.add_argument("--data", help="default: CIFAR-10")
    options.add_argument("--teacher", help="default: the published ResNet-56")
    options.add_argument("--other-teacher", help="teaches every taught arm once more, for comparison")
    options.add_argument("--patch", type=int, default=4)
    options.add_argument("--image-size", type=int, default=32)
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--arms", help="some of them, with commas; default all")
    options.add_argument("--parallel", type=int, default=2, help="runs at a time, one thread each")
    options.add_argument("--finetune", type=int, help="pixels to fine-tune every student at")
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", default="bf16")
    options.add_argument("--name", help="of the result file; default distillation-STUDENT")
    given = options.parse_args()
    known = list(STUDENTS[given.student])
    given.arms = given.arms.split(",") if given.arms else known
    if unknown := [arm for arm in given.arms if arm not in known]:
        options.error(f"--arms {unknown[0]}: there are {', '.join(known)}")
    given.data = given.data or str(data_root() / "cifar10")
    if given.teacher is None:
        file = next((data_root().parent / "weights" / "cifar-resnet").glob("resnet56-*.th"))
        given.teacher = f"cifar_resnet56={file}"
    if given.other_teacher is not None:
        given.arms += [arm + OTHER for arm in given.arms if arm != "none"]
    return given


def _prepare(given: argparse.Namespace, folder: Path) -> None:
    """Fill the cache by one run before several read it: two would ask the teacher the same at one time."""
    for teacher in ("", OTHER):
        taught = next((arm for arm in given.arms if arm != "none" and _teacher(arm) == teacher), None)
        if taught is not None and given.parallel > 1:
            _run(given, folder, taught, given.seed)


def _teacher(arm: str) -> str:
    return OTHER if arm.endswith(OTHER) else ""


def _cache(folder: Path, arm: str) -> Path:
    return folder / ("cache-other" if _teacher(arm) else "cache")


def _out(folder: Path, arm: str, seed: int) -> Path:
    return folder / f"{arm.replace(' + ', '-').replace(' ', '-')}-seed{seed}"


def _arguments(given: argparse.Namespace, folder: Path, arm: str) -> list[str]:
    text = STUDENTS[given.student][arm.removesuffix(OTHER)].format(
        patch=given.patch,
        teacher=shlex.quote(given.other_teacher if _teacher(arm) else given.teacher),
        cache=shlex.quote(str(_cache(folder, arm))),
    )
    return [
        *("--data", given.data, "--data.val_fraction", "0", "--recipe", "small", "--data_seed", "0"),
        *("--model.image_size", str(given.image_size), "--epochs", str(given.epochs)),
        *("--device", given.device, "--precision", given.precision),
        *shlex.split(text),
    ]


def _run(given: argparse.Namespace, folder: Path, arm: str, seed: int) -> dict[str, Any]:
    """Train one student, or read what it reached."""
    arguments = [*_arguments(given, folder, arm), "--seed", str(seed)]
    return train_or_continue(arguments, out=_out(folder, arm, seed), threads=1)


def _finetuned(given: argparse.Namespace, folder: Path, arm: str) -> list[dict[str, Any]]:
    """Every seed of an arm, two epochs longer at another resolution, taught as before."""
    results = []
    for seed in range(given.seed, given.seed + given.seeds):
        weights = _out(folder, arm, seed)
        arguments = _arguments(given, folder, arm)
        changes = {"--recipe": "finetune", "--model.image_size": str(given.finetune), "--epochs": "2"}
        changes["--distill.cache"] = f"{_cache(folder, arm)}-{given.finetune}"
        for key, value in changes.items():
            if key in arguments:
                arguments[arguments.index(key) + 1] = value
        command = [*arguments, "--seed", str(seed), "--weights", str(weights)]
        out = weights.with_name(f"{weights.name}-{given.finetune}")
        results.append(train_or_continue(command, out=out, threads=1))
    return results


def _record(given: argparse.Namespace, runs: dict[str, list[dict[str, Any]]], started: float) -> int:
    arms = {arm: interval([run["top1"] for run in results]) for arm, results in runs.items()}
    teachers = [(arm.removesuffix(OTHER), arm, ">") for arm in runs if arm.endswith(OTHER)]
    order = [step for step in ORDER[given.student] if step[0] in runs and step[1] in runs]
    steps = [
        {"step": f"{better} {sign} {worse}", **_verdict(runs[better], runs[worse], sign)}
        for better, worse, sign in order + teachers
    ]
    floor_arm, floor = FLOOR.get(given.student, ("none", 0.0))
    floor = floor if floor_arm in runs else 0.0
    lowest = min((run["top1"] for run in runs.get(floor_arm, ())), default=1.0)
    epochs = sorted({run["epochs"] for arm in given.arms for run in runs[arm]})
    for step in steps:
        print(f"{step['step']}: {step['verdict']}")
    return record(
        given.name or f"distillation-{given.student}",
        claim=f"Distillation, {given.student} on {Path(given.data).name}, {given.seeds} seeds of "
        f"{epochs[0]} epochs"
        + (f": without a teacher >= {floor:.0%}" if floor else f": as in the paper {_words(order)}"),
        measured="; ".join(
            f"{arm} {100 * told['mean']:.2f}"
            + (f" ± {100 * told['half_width']:.2f}" if told["half_width"] is not None else "")
            + " %"
            for arm, told in arms.items()
        ),
        figure={"arms": arms, "steps": steps},
        passed=lowest >= floor if floor else all(step["as_in_paper"] for step in steps[: len(order)]),
        n=given.seeds,
        seed=given.seed,
        started=started,
        out=given.out,
        training_seconds=round(sum(run["training_seconds"] for results in runs.values() for run in results)),
        runs=runs,
    )


def interval(values: list[float]) -> dict[str, float | None]:
    """Mean and half the width of its 95 % interval (Student's t); None from one value."""
    import numpy as np
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "half_width": None}
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return {"mean": mean, "half_width": float(stats.t.ppf(0.975, len(values) - 1)) * error}


def _verdict(better: list[dict[str, Any]], worse: list[dict[str, Any]], sign: str) -> dict[str, Any]:
    """The paired difference by seed, and whether it says what the paper says."""
    difference = interval([a["top1"] - b["top1"] for a, b in zip(better, worse, strict=True)])
    mean, half = difference["mean"], difference["half_width"]
    assert mean is not None
    points = f"{100 * mean:+.2f} points"
    if half is None:
        said = f"{points} with one seed: nothing can be said"
        return {"difference": difference, "verdict": said, "as_in_paper": False}
    points += f" (95 % interval {100 * (mean - half):+.2f} to {100 * (mean + half):+.2f})"
    certain = abs(mean) > half
    as_in_paper = certain and mean > 0 if sign == ">" else not certain
    if sign == ">":
        said = "shows" if certain and mean > 0 else "is the other way round" if certain else "is not certain"
    else:
        said = (
            "a difference shows, unlike in the paper"
            if certain
            else "no difference can be told, as in the paper"
        )
    return {"difference": difference, "verdict": f"{points}: {said}", "as_in_paper": as_in_paper}


def _words(order: list[tuple[str, str, str]]) -> str:
    return ", ".join(f"{a} {'above' if sign == '>' else 'like'} {b}" for a, b, sign in order)


if __name__ == "__main__":
    sys.exit(main())
