"""Cells, effects and fronts of planted tables."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isopatch.study.analyse import analyse
from isopatch.study.effects import main_effects
from isopatch.study.pareto import pareto_front

LEVELS = {"kernel": ["3", "5"], "stem": ["patch", "overlap"]}
ADDED = {"3": 0.0, "5": 0.02, "patch": 0.0, "overlap": 0.01}


def additive(kernel, stem, seed):
    return 0.6 + ADDED[kernel] + ADDED[stem] + 0.003 * seed


def named(levels):
    return {factor: {name: {} for name in names} for factor, names in levels.items()}


def test_cells_stand_in_the_order_of_the_declaration(rows_of, design):
    rows = rows_of(LEVELS, additive)[::-1]
    found = analyse(pa.Table.from_pylist(rows), design(named(LEVELS)))
    assert [cell.cell for cell in found.cells] == [
        "kernel-3_stem-patch",
        "kernel-3_stem-overlap",
        "kernel-5_stem-patch",
        "kernel-5_stem-overlap",
    ]
    first = found.cells[0]
    assert first.seeds == (0, 1, 2) and first.top1.mean == pytest.approx(0.603)
    assert first.costs["parameters"] == 1000
    json.dumps(found.to_dict())


def test_main_effects_are_those_planted(rows_of):
    rows = rows_of(LEVELS, additive)
    kernel, stem = main_effects(rows, LEVELS)
    assert (kernel.level, kernel.reference, kernel.pairs, kernel.blocks) == ("5", "3", 6, 2)
    assert kernel.difference == pytest.approx(0.02) and stem.difference == pytest.approx(0.01)


def test_an_incomplete_design_compares_only_what_can_be_compared(rows_of):
    """Control: the plain means of the levels would credit the kernel with what the stem did."""
    rows = [
        row
        for row in rows_of(LEVELS, additive)
        if not (row["factor.kernel"] == "3" and row["factor.stem"] == "overlap")
    ]
    kernel, _ = main_effects(rows, LEVELS)
    assert kernel.difference == pytest.approx(0.02) and kernel.pairs == 3
    means = {level: np.mean([r["top1"] for r in rows if r["factor.kernel"] == level]) for level in ("3", "5")}
    assert means["5"] - means["3"] == pytest.approx(0.025)


def test_an_interaction_shows_in_the_ends(rows_of):
    value = {("3", "patch"): 0.0, ("5", "patch"): 0.1, ("3", "overlap"): 0.0, ("5", "overlap"): -0.1}
    rows = rows_of(LEVELS, lambda kernel, stem, seed: 0.5 + value[kernel, stem] + 0.001 * seed)
    kernel = main_effects(rows, LEVELS)[0]
    assert (kernel.low, kernel.high) == pytest.approx((-0.1, 0.1))
    assert kernel.difference == pytest.approx(0.0, abs=1e-9)


def test_levels_without_a_partner_have_no_effect(rows_of):
    rows = [row for row in rows_of(LEVELS, additive) if row["factor.kernel"] == "3"]
    kernel = main_effects(rows, LEVELS)[0]
    assert kernel.difference is None and kernel.note


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
@settings(max_examples=150, deadline=None)
def test_the_front_is_what_nothing_dominates(points):
    gains, costs = [p[0] for p in points], [p[1] for p in points]
    front = pareto_front(gains, costs)
    expected = {
        i
        for i, (gain, cost) in enumerate(points)
        if not any(g >= gain and c <= cost and (g > gain or c < cost) for g, c in points)
    }
    assert set(front) == expected and len(front) == len(expected)
    assert [costs[i] for i in front] == sorted(costs[i] for i in front)


def test_fronts_know_which_way_is_better(rows_of, design):
    rows = rows_of({"size": ["s", "m", "l"]}, lambda size, seed: {"s": 0.5, "m": 0.7, "l": 0.6}[size])
    for row in rows:
        row["parameters"] = {"s": 1, "m": 2, "l": 3}[row["factor.size"]]
        row["images_per_second"] = {"s": 30.0, "m": 10.0, "l": 20.0}[row["factor.size"]]
    found = analyse(rows, design(named({"size": ["s", "m", "l"]})))
    assert found.fronts["parameters"] == ["size-s", "size-m"]
    assert found.fronts["images_per_second"] == ["size-s", "size-l", "size-m"]


def test_what_came_before_is_part_of_the_cost(rows_of, design):
    rows = rows_of({"start": ["a"]}, lambda **_: 0.5, before_training_flops=7.0e9, before_seconds=6.0)
    costs = analyse(rows, design(named({"start": ["a"]}))).cells[0].costs
    assert costs["training_flops"] == 1.0e10 and costs["seconds"] == 10.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "val"}, "validation pictures"),
        ({"hardware": "another"}, "2 kinds of machine"),
    ],
)
def test_what_makes_results_doubtful_is_said(rows_of, design, change, said):
    levels = {"size": ["s", "m"]}
    rows = rows_of(levels, lambda size, seed: 0.5 + 0.01 * seed)
    assert analyse(rows, design(named(levels))).notes == []  # the control
    rows[-1].update(change)
    rows[-1]["cell"] = "size-m"
    assert any(
        said in note
        for note in analyse(
            [{**row, **change} if change.get("split") else row for row in rows], design(named(levels))
        ).notes
    )


def test_missing_seeds_and_single_runs_are_said(rows_of, design):
    levels = {"size": ["s", "m"]}
    rows = rows_of(levels, lambda size, seed: 0.5 + 0.01 * seed)
    assert "seeds are missing" in analyse(rows[:-1], design(named(levels))).notes[0]
    single = rows_of(levels, lambda size, seed: 0.5, seeds=[0])
    assert "one run" in analyse(single, design(named(levels))).notes[0]
    assert "No run has finished" in analyse([], design(named(levels))).notes[0]


def test_probes_and_unknown_costs(rows_of, design):
    levels = {"size": ["s"]}
    rows = rows_of(levels, lambda size, seed: 0.5 + 0.01 * seed)
    for row in rows:
        row["probe.few-shot"] = 0.4 + 0.1 * row["seed"]
        row["seconds"] = None if row["seed"] == 1 else 3.0
    cell = analyse(rows, design(named(levels))).cells[0]
    assert cell.probes == {"probe.few-shot": pytest.approx(0.5)}
    assert cell.costs["seconds"] is None
