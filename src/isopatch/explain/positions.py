"""Position similarity: how alike the entries of a position table are, place by place.

Dosovitskiy et al. 2020, figure 7 (centre) and appendix D.4: the cosine of each entry with all others.
Relative positions have no entries per place; theirs are biases per offset, shown as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isopatch.explain.contract import Context, Figure
from isopatch.explain.drawing import chart, coloured, mosaic, plain, sheet, signed, spread
from isopatch.explain.places import (
    Biases,
    Field,
    Profiles,
    Table,
    by_distance,
    cosines,
    position_table,
    profiles,
    relative_biases,
)
from isopatch.explain.waves import ALPHA, DEALS, SINE_FROM, Waves, find_waves
from isopatch.models.external.wrapper import External
from isopatch.nn.classifier import Classifier
from isopatch.report.plots import SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_TILES = 16  # a side of the mosaic; of larger grids evenly spaced places are shown
SOURCE = "Dosovitskiy et al. 2020, figure 7 (centre), appendix D.4"


def missing(model: Classifier) -> str | None:
    """Say why a model has no positions to look at."""
    if isinstance(model, External):
        return "is another library's, whose positions are not known here"
    if position_table(model) is None and relative_biases(model) is None:
        return "has no positions: no table, no sine-cosine code, no relative biases"
    return None


def make(context: Context) -> list[Figure]:
    """Draw similarities, their profiles and the test for waves; of relative positions the biases."""
    table, biases = position_table(context.model), relative_biases(context.model)
    figures = []
    if table is not None:
        figures += _of_table(table, context.seed)
    if biases is not None:
        figures += _of_biases(biases, context.seed)
    return figures


def _of_table(table: Table, seed: int) -> list[Figure]:
    rows, cols, dim = table.field.shape
    similarity = cosines(table.field)
    undefined = np.isnan(similarity).any()
    warning = "entries that are zero have no direction, and are left blank" if undefined else None
    by_place = similarity.reshape(rows, cols, rows, cols)
    picked = np.ix_(spread(rows, MOST_TILES), spread(cols, MOST_TILES))
    shown = by_place[picked]
    low = min(0.0, float(np.nanmin(similarity))) if np.isfinite(similarity).any() else 0.0
    tiles = np.stack([[coloured(tile, low=low, high=1.0) for tile in line] for line in shown])
    count = "" if shown.shape[:2] == (rows, cols) else f" {shown.shape[0]} x {shown.shape[1]} are shown."
    mosaic_of = sheet(
        [("", [mosaic(tiles)])],
        title="Position similarity",
        tile=min(5.0, 0.12 * (cols + 1) * shown.shape[1]),
        gap=0.01,
        colour_bar=("viridis", low, 1.0, "cosine"),
    )
    similar = Figure(
        name="similarity",
        title=f"Similarity of {rows} x {cols} position entries ({table.kind})",
        caption="Each small picture belongs to one place of the grid and lies where that place lies; it "
        f"shows the cosine of its entry ({dim} numbers) with the entries of all places, prefix entries left "
        "out." + count,
        svg=mosaic_of,
        data={"kind": table.kind, "grid": [rows, cols], "cosine": plain(similarity)},
        warning=warning,
    )
    return [
        similar,
        _profiles(profiles(similarity, (rows, cols)), "cosine", warning),
        _waves(table.field, seed, "places"),
    ]


def _of_biases(biases: Biases, seed: int) -> list[Figure]:
    heads = biases.layers[0].shape[-1]
    picked = spread(heads, 12)
    lines = []
    for index in spread(len(biases.layers), 16):
        field = biases.layers[index]
        lines.append((f"layer {index + 1}", [signed(field[:, :, head]) for head in picked]))
    field = np.concatenate(biases.layers, axis=-1)
    mean = field.mean(axis=-1)
    down, across = (np.arange(extent) - extent // 2 for extent in mean.shape)
    profile = Profiles(
        by_distance(mean[down == 0][0], np.abs(across).astype(np.float64))[1],
        by_distance(mean[:, across == 0][:, 0], np.abs(down).astype(np.float64))[1],
        by_distance(mean, np.hypot(down[:, None], across[None, :])),
    )
    shown = Figure(
        name="biases",
        title="Relative positions: the bias on the attention by offset",
        caption="One picture per layer (rows) and head (columns). Its middle is the place itself; the others "
        "are how far up, down, left or right the place that is attended to lies. Red raises the attention, "
        "blue lowers it; each picture is scaled by its own largest bias. Prefix tokens are left out.",
        svg=sheet(
            lines, title="Relative position biases", columns=[f"head {h + 1}" for h in picked], gap=0.1
        ),
        data={"grid": list(biases.grid), "bias": [plain(layer) for layer in biases.layers]},
    )
    return [shown, _profiles(profile, "mean bias", None), _waves(field, seed, "offsets")]


def _profiles(found: Profiles, what: str, warning: str | None) -> Figure:
    named = [
        ("along a row", np.arange(len(found.column)), found.column),
        ("along a column", np.arange(len(found.row)), found.row),
        ("any direction", *found.distance),
    ]

    def draw(axes: Axes) -> None:
        for colour, (label, x, y) in zip(SERIES, named, strict=False):
            axes.plot(x, y, color=colour, label=label, linewidth=1.8, marker="o", markersize=3)
        axes.set_xlabel(f"places apart; upwards: {what}")
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=3, borderaxespad=0.1)

    return Figure(
        name="profiles",
        title="How it falls off with distance",
        caption=f"Mean {what} over all pairs of places that lie so far apart in one row, in one column, or "
        "anywhere (distance rounded). Positions that know rows and columns stay alike along them longer than "
        "in any direction.",
        svg=chart(draw, title="Position profiles", legend=True),
        data={
            "along_row": plain(found.column),
            "along_column": plain(found.row),
            "distance": plain(found.distance[0]),
            "any": plain(found.distance[1]),
        },
        warning=warning,
    )


def _waves(field: Field, seed: int, places: str) -> Figure:
    waves = find_waves(field, seed=seed)
    if waves is None:
        periods: dict[int, float] = {}
        data = {}
        sentence = f"Not tested: too few {places}, or all of them alike."
    else:
        periods, data = waves.periods, {**waves._asdict(), "sine_like": waves.sine_like}
        data["periods"] = {str(key): value for key, value in waves.periods.items()}
        sentence = verdict(waves, places)

    def draw(axes: Axes) -> None:
        longest = max(max(field.shape[:2]) // 2, 1)
        axes.bar(
            range(longest + 1), [periods.get(n, 0.0) for n in range(longest + 1)], color=SERIES[0], width=0.7
        )
        axes.yaxis.set_major_formatter(lambda value, _position: f"{100 * value:.0f} %")
        axes.set_ylim(0, max([0.1, *periods.values()]) * 1.1)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(
            "periods over the grid of a channel's strongest wave; upwards: its share of all power"
        )

    return Figure(
        name="waves",
        title="Are the positions made of waves?",
        caption=sentence
        + f" The null deals the same vectors out to the {places} at random, {DEALS} times. The bars show how "
        "fast the strongest waves are: slow ones alone (1 period) may as well be any smooth function.",
        svg=chart(draw, title="Waves of the positions", height=2.4),
        data=data,
        warning=None if waves is not None else sentence.rstrip(".").lower(),
    )


def verdict(waves: Waves, places: str) -> str:
    """Say in words what the test found."""
    kind = "sine-like" if waves.sine_like else "not sine-like"
    if waves.axes_null > 0.99:
        lines = "the grid is a single line, which has no rows and columns"
    elif waves.rows_and_columns:
        lines = f"rows and columns show ({100 * waves.axes:.0f} % of the variance"
        lines += f", {100 * waves.axes_null:.0f} % by chance, p = {waves.axes_p:.3f})"
    else:
        lines = f"rows and columns do not show (p = {waves.axes_p:.3f})"
    return (
        f"{kind.capitalize()}: one wave per channel holds {100 * waves.concentration:.0f} % of the power, "
        f"{100 * waves.concentration_null:.0f} % by chance (p = {waves.concentration_p:.3f}; sine-like means "
        f"at least {100 * SINE_FROM:.0f} % and p <= {ALPHA}); {lines}."
    )
