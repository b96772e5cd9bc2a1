"""The parts of a page: intervals, wording, down-sampling, settings, charts."""

from __future__ import annotations

import numpy as np
import pytest

from isopatch.report.intervals import wilson
from isopatch.report.plots import Line, downsample, line_chart
from isopatch.report.settings import compare_with_defaults, default_settings, differences, flatten
from isopatch.report.wording import count, decimal, duration, number, percent, plain, si
from isopatch.training.config import ModelNode, RunConfig


def test_wilson_against_its_defining_equation() -> None:
    """The ends p of the interval satisfy |share - p| = z sqrt(p (1 - p) / n)."""
    for successes, trials in ((0, 10), (7, 10), (10, 10), (355, 360), (1, 100000)):
        for bound in wilson(successes, trials):
            gap = abs(successes / trials - bound)
            assert gap == pytest.approx(1.959964 * np.sqrt(bound * (1 - bound) / trials), abs=1e-6)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == pytest.approx(1)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(successes, trials)


def test_numbers_read_well() -> None:
    assert count(12345.0) == "12,345"
    assert percent(0.98611) == "98.61 %"
    assert [si(706570), si(5.949e9), si(999_900), si(12)] == ["707 k", "5.95 G", "1 M", "12"]
    assert [duration(12.34), duration(75.2), duration(7260)] == ["12.3 s", "1 min 15 s", "2 h 1 min"]
    assert [decimal(0.05123), decimal(0), decimal(1e-7)] == ["0.0512", "0.0000", "1.00e-07"]
    assert [plain([1, 2]), plain(1e-5), plain(True), plain("x")] == ["[1, 2]", "1e-05", "true", "x"]


@pytest.mark.parametrize("value", [None, "text", float("nan"), float("inf"), True, [1], {}])
def test_what_is_no_number_is_a_dash(value: object) -> None:
    assert number(value) is None
    assert {count(value), percent(value), si(value), duration(value), decimal(value)} == {"–"}  # noqa: RUF001


def test_long_curves_are_averaged_and_keep_their_range() -> None:
    x = np.arange(10_001, dtype=np.float64)
    y = np.where(x == 5000, 100.0, 1.0)
    middle, mean, low, high = downsample(x, y, 100)
    assert len(middle) == len(mean) == 100
    assert high.max() == 100
    assert low.min() == 1
    assert 1.9 < mean.max() < 2.1  # one of about a hundred values is 100
    assert np.average(mean, weights=np.diff(np.linspace(0, 10_001, 101).astype(int))) == pytest.approx(
        y.mean()
    )


def test_gaps_stay_gaps() -> None:
    y = np.ones(1000)
    y[:200], y[500] = np.nan, np.nan
    mean = downsample(np.arange(1000.0), y, 50)[1]
    assert np.isnan(mean[:10]).all()
    assert np.isfinite(mean[10:]).all()


def test_short_curves_are_drawn_as_they_are() -> None:
    x = y = np.arange(10.0)
    assert all(values is y for values in downsample(x, y)[1:])


def test_a_chart_without_a_point_is_no_chart() -> None:
    empty, lost = np.zeros(0), np.full(3, np.nan)
    assert line_chart([Line("a", empty, empty), Line("b", lost, lost)], title="x", x_label="y") is None


def test_a_chart_is_one_clean_svg() -> None:
    x = np.arange(5.0)
    svg = line_chart([Line("<a> $b$", x, x), Line("_c", x, 2 * x)], title='<"t">', x_label="epoch")
    assert svg is not None
    assert svg.startswith("<svg ")
    assert svg.rstrip().endswith("</svg>")
    assert 'aria-label="&lt;&#34;t&#34;&gt;"' in svg
    assert "&lt;a&gt; $b$" in svg
    assert "http" not in svg
    assert "var(--muted)" in svg


def test_settings_that_differ_from_the_defaults() -> None:
    config = RunConfig(model=ModelNode(name="vit"), batch_size=64).model_dump(mode="json")
    changed = [item.key for item in compare_with_defaults(config) if item.changed]
    assert changed == ["model.name", "batch_size"]
    assert len(compare_with_defaults(config)) == len(default_settings()) + 1


def test_unknown_settings_count_as_changed() -> None:
    (setting,) = compare_with_defaults({"future": {"option": 1}})
    assert (setting.key, setting.value, setting.default, setting.changed) == ("future.option", "1", "", True)


def test_differences_show_what_is_not_set() -> None:
    found = differences([{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": None}])
    assert found == [("b.c", ["2", "3"]), ("d", ["not set", "–"])]  # noqa: RUF001
    assert differences([{"a": (1, 2)}, {"a": [1, 2]}]) == []
    assert flatten({"a": {"b": {}}, "c": [1]}) == {"a.b": {}, "c": [1]}
