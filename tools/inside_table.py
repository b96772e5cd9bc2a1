"""Write results/looking-inside.md from its result file: `python tools/inside_table.py [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
SOURCE, TARGET = RESULTS / "looking_inside.json", RESULTS / "looking-inside.md"
INTRODUCTION = """# What trained models look like inside

Made by `tools/inside_table.py` from `looking_inside.json`, which names the command, versions and machine. One
training of each model: these are observations, not comparisons of architectures. What each figure is, and
what misleads: [explanations](../docs/explain.md), [probes](../docs/probes.md),
[robustness](../docs/robustness.md).
"""


def page(result: Mapping[str, Any]) -> str:
    """Return the whole page."""
    figure = result["figure"]
    parts = [INTRODUCTION]
    for name in ("CIFAR-10", "TrashNet"):
        parts += [f"## {name}\n", *(f"{part}\n" for part in _data_set(figure[name]))]
    parts += ["## Probes\n", _probes(figure["probes"]) + "\n", f"{result['hardware']}."]
    return "\n".join(parts) + "\n"


def _data_set(told: Mapping[str, Any]) -> list[str]:
    return [
        _models(told["models"]),
        "By depth, from the first block on (attention and mixing distance, receptive field: pixels):",
        _depths(told["inside"]),
        "In one number:",
        _numbers(told["inside"]),
        "Share of maps that pass every check, and mean deletion area (random order):",
        _maps(told["maps"]),
        "Which layers see pictures alike (CKA):",
        _similarity(told["similarity"]),
        "Damage and disorder, top-1:",
        _robustness(told["robustness"]),
    ]


def _models(models: Mapping[str, Any]) -> str:
    rows = [
        [name, _percent(told["top1"]), told.get("epochs", ""), f"{told['parameters']:,}"]
        for name, told in models.items()
        if told["top1"] is not None
    ]
    return table(["model", "test top-1", "epochs", "parameters"], rows)


def _depths(inside: Mapping[str, Any]) -> str:
    rows = []
    for name, told in inside.items():
        even, uniform = told["radius_90_even"], told["distance_uniform"]
        rows.append([name, f"distance (everywhere alike: {uniform:.1f})", _list(told["distance"])])
        rows.append([name, f"radius of 90 % of the field, from the stem on (all pixels alike: {even:.1f})",
                     _list(told["radius_90"])])  # fmt: skip
        rows.append([name, "CKA of neighbouring layers", _list(told["layers_neighbours"], 2)])
        if told["kernel_centre"]:
            rows.append([name, "squared weight in a kernel's centre", _list(told["kernel_centre"], 2)])
        if told["tokens"]:
            rows.append([name, "cosine of class and distillation token", _list(told["tokens"]["cosine"], 2)])
            rows.append([name, "CKA of both", _list(told["tokens"]["cka"], 2)])
    return table(["model", "what", "by depth"], rows)


def _numbers(inside: Mapping[str, Any]) -> str:
    rows = []
    for name, told in inside.items():
        variance = told["filters_variance"]
        waves = told["positions"] or {}
        rows.append([
            name,
            f"{sum(variance[:14]):.0%}, {sum(variance):.0%}",
            f"{told['layers_ends']:.2f}",
            f"{waves['axes']:.0%} ({waves['axes_null']:.0%})" if waves else "-",
            f"{waves['concentration']:.0%} ({waves['concentration_null']:.0%})" if waves else "-",
        ])  # fmt: skip
    head = ["model", "variance of filters in 14 and 28 components", "CKA of first and last layer",
            "positions: rows and columns (by chance)", "one wave a channel (by chance)"]  # fmt: skip
    return table(head, rows)


def _maps(maps: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for told in maps.values() for name in told))
    rows = []
    for name in names:
        cells = [told.get(name) for told in maps.values()]
        rows.append([name, *("-" if cell is None else _passed(cell) for cell in cells)])
    return table(["map", *maps], rows)


def _passed(told: Mapping[str, Any]) -> str:
    share = told["passed"] / told["pictures"]
    return f"{share:.0%}, {told['deletion']:.2f} ({told['random']:.2f})"


def _similarity(similarity: Mapping[str, Any]) -> str:
    rows = []
    for name, told in similarity.items():
        low, high = told["interval"]
        rows.append([name, *(f"{mean:.3f}" for mean in told["mean"]),
                     f"{told['difference']:+.3f} ({low:+.3f} to {high:+.3f})"])  # fmt: skip
    references = next(iter(similarity.values()))["references"] if similarity else ["", ""]
    return table(["model", *references, "difference, 95 % interval"], rows)


def _robustness(robustness: Mapping[str, Any]) -> str:
    rows = []
    for name, told in robustness.items():
        level = told["level_5"]
        rows.append([
            name,
            _percent(told["sample"]["top1"]),
            *(_percent(row["top1"]) + " (its patches)" * row["patches"] for row in told["shuffled"]),
            _percent(level["top1"]),
            f"{_percent(told['sample']['confidence'])}, {_percent(level['confidence'])}",
        ])  # fmt: skip
    first = next(iter(robustness.values()))
    tiles = [f"{row['tiles'][0]} x {row['tiles'][1]} tiles" for row in first["shuffled"]]
    head = ["model", "clean", *tiles, "damage, level 5", "mean confidence clean, damaged"]
    return table(head, rows)


def _probes(probes: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for told in probes.values() for name in told))
    rows = [[what, *(_percent(told[name]["top1"]) for name in names)] for what, told in probes.items()]
    return table(["model, probed on", *names], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _list(values: Sequence[float | None], digits: int = 1) -> str:
    return ", ".join("-" if value is None else f"{value:.{digits}f}" for value in values)


def main() -> int:
    """Write or check."""
    if not SOURCE.is_file():
        return int(TARGET.is_file())
    wanted = page(json.loads(SOURCE.read_text(encoding="utf-8")))
    if "--check" in sys.argv[1:]:
        return int(not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != wanted)
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
