"""Names beside crowded marks cover neither each other nor the marks, and stay near their own."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from isopatch.report.names import name_lines

CROWD = [("a model", [10, 20], 80.0), ("its neighbour", [11, 19], 80.2), ("another one", [12, 30], 79.9)]
APART = [("left", [1, 2], 10.0), ("right", [100, 200], 90.0)]


@pytest.mark.parametrize("lines", [CROWD, APART], ids=["crowd", "apart"])
def test_names_are_readable(lines: list[tuple[str, list[float], float]]) -> None:
    figure = Figure(figsize=(5, 4))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xscale("log")
    for _, rates, height in lines:
        axes.plot(rates, [height] * len(rates), "o", markersize=7)
    name_lines(axes, lines)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [name for name, *_ in lines]
    assert not any(Bbox.intersection(one, other) for one, other in itertools.combinations(boxes, 2))
    for box, (_, rates, height) in zip(boxes, lines, strict=True):
        marks = axes.transData.transform([(rate, height) for rate in rates])
        assert not any(box.contains(*mark) for mark in marks)
        assert min(abs(box.y0 + box.height / 2 - y) for _, y in marks) < 60
