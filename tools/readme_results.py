"""Write the README's table of measurements from results/: `python tools/readme_results.py [--check]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- results:begin (made by tools/readme_results.py) -->"
END = "<!-- results:end -->"

# What nobody could run yet: name of the result file, claim, command.
WAITING = {
    "speed_gpu": (
        "ConvMixer-1536/20 and 768/32 on a GPU, inference and training: at least 2 times timm's best (aim 4)",
        "python -m benchmarks.speed_gpu",
    ),
    "cifar10_gpu": (
        "CIFAR-10, ConvMixer-256/8 k9 p1 (706,570 parameters) on a GPU, three seeds: mean >= 95.7 % "
        "(aim 96.0); time to 94 % stated",
        "python -m benchmarks.accuracy.cifar10_gpu --folder DIR",
    ),
}


def table(results: list[dict[str, Any]]) -> str:
    """Return the Markdown table, one line a result file, and the machines they were measured on."""
    results = sorted(results, key=lambda result: (not is_accuracy(result), result["name"]))
    machines = sorted({result["hardware"] for result in results})
    several = len(machines) > 1
    lines = ["| what was to be shown | measured | n | result |" + " machine |" * several]
    lines.append("|---|---|---|---|" + "---|" * several)
    for result in results:
        verdict = "shown" if result["passed"] else "**missed**"
        lines.append(
            f"| {result['claim']} | {result['measured']} | {result['n']} | "
            f"[{verdict}](results/{result['name']}.json) |"
            + f" {machines.index(result['hardware']) + 1} |"
            * several
        )
    measured = {result["name"] for result in results}
    lines += [
        f"| {claim} | not measured: no GPU | 0 | `{command}` |" + "  |" * several
        for name, (claim, command) in WAITING.items()
        if name not in measured
    ]
    numbered = [f"{n}: {machine}" for n, machine in enumerate(machines, 1)] if several else machines
    return "\n".join([*lines, "", f"Measured on: {'; '.join(numbered)}."])


def is_accuracy(result: dict[str, Any]) -> bool:
    """Whether a result says how good a model became; these come first."""
    return ".accuracy." in str(result["command"])


def updated(readme: str, root: Path = ROOT) -> str:
    """Return the README's text with the table made anew."""
    paths = sorted((root / "results").glob("*.json"))
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    head, rest = readme.split(BEGIN)
    tail = rest.split(END)[1]
    return f"{head}{BEGIN}\n{table(results)}\n{END}{tail}"


def main() -> int:
    """Rewrite the README, or with --check say whether it is up to date."""
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = updated(before)
    if "--check" in sys.argv:
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
