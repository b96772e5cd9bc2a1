"""Write results/distillation.md from its result files: `python tools/distillation_table.py [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
TARGET = RESULTS / "distillation.md"
HEAD = ("arm", "top-1", "seeds", "above `none`", "pictures seen", "training s", "teacher s", "saved s")
INTRODUCTION = """# What a teacher adds

Made by `tools/distillation_table.py` from the result files beside it, which name every command, seed and
version. A run's last weights on all 10,000 test pictures; mean and 95 % interval (Student's t) over the
seeds; differences are paired by seed. Seconds are the runs' own, on a machine that did other work too: they
say little. Teacher seconds are those of the run that asked; a cache answered all others, which saved each of
them so many (where no arm asked, the runs of another student with the same pictures had).
"""


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *("\n".join(_part(result)) + "\n" for result in results)])


def _part(result: Mapping[str, Any]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *_rows(result))]
    steps = [f"- {step['step']} in the paper; here {step['verdict']}" for step in result["figure"]["steps"]]
    return [f"## {result['claim']}", "", *lines, "", *steps, "", f"{result['hardware']}."]


def _rows(result: Mapping[str, Any]) -> list[list[str]]:
    runs = result["runs"]
    return [
        [
            arm,
            _interval(result["figure"]["arms"][arm]),
            f"{len(own)}",
            "" if arm == "none" or "none" not in runs else _above(own, runs["none"]),
            f"{own[0]['images_seen']:,}",
            f"{mean(run['training_seconds'] for run in own):,.0f}",
            f"{max(taught['teacher_seconds'] for taught in _taught(own)):,.0f}",
            f"{max(taught['cache']['teacher_seconds_saved'] for taught in _taught(own)):,.0f}",
        ]
        for arm, own in runs.items()
    ]


def _taught(own: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    nothing = {"teacher_seconds": 0, "cache": {"teacher_seconds_saved": 0}}
    return [run["distillation"] or nothing for run in own]


def _above(own: Sequence[Mapping[str, Any]], none: Sequence[Mapping[str, Any]]) -> str:
    from benchmarks.accuracy.distillation import interval

    return _interval(interval([a["top1"] - b["top1"] for a, b in zip(own, none, strict=True)]), sign="+")


def _interval(told: Mapping[str, Any], sign: str = "") -> str:
    half = told["half_width"]
    return f"{100 * told['mean']:{sign}.2f}" + ("" if half is None else f" ± {100 * half:.2f}")


def main() -> int:
    """Write or check."""
    paths = sorted(RESULTS.glob("distillation-*.json"))
    wanted = page([json.loads(path.read_text(encoding="utf-8")) for path in paths])
    if "--check" in sys.argv[1:]:
        return int(not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != wanted)
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(RESULTS.parent))
    sys.exit(main())
