"""Names beside marks where many lie close together: each where it covers least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isopatch.report.png import QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Line = tuple[str, Sequence[float], float]  # a name, the x of its marks, their y

_SIZE = 8.0  # of letters, in points
_MARK = 5.0  # from a mark's centre to its rim
_FAR = 80.0  # how much a name may cover, in square points, before the next place farther off is better


@dataclass(frozen=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    def covers(self, other: _Box) -> float:
        """The area that both have."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, wide) * max(0.0, high)

    def outside(self, other: _Box) -> float:
        """The area of this one that the other leaves out."""
        return (self.right - self.left) * (self.top - self.bottom) - self.covers(other)


def name_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Write each line's name near its marks. The axes keep the limits they have now."""
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    points = 72 / axes.figure.dpi

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return across * points, up * points

    (left, bottom), (right, top) = axes.transAxes.transform([(0, 0), (1, 1)]) * points
    inside = _Box(left, bottom, right, top)
    marks = [
        _Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK)
        for _, rates, height in lines
        for x, y in (place(rate, height) for rate in rates)
    ]
    names: list[_Box] = []
    for name, rates, height in lines:
        (first, y), (last, _) = place(min(rates), height), place(max(rates), height)
        text = axes.text(0, 0, name, fontsize=_SIZE, color=QUIET, ha="left", va="bottom", clip_on=False)
        wide = text.get_window_extent().width * points

        def cost(choice: tuple[int, _Box]) -> float:
            steps, box = choice
            taken = sum(box.covers(other) for other in names) + sum(box.covers(mark) for mark in marks)
            return taken + box.outside(inside) + _FAR * steps

        _, best = min(_places(first, last, y, wide), key=cost)
        names.append(best)
        left, bottom = axes.transData.inverted().transform((best.left / points, best.bottom / points))
        text.set_position((float(left), float(bottom)))


def _places(first: float, last: float, y: float, wide: float) -> Iterator[tuple[int, _Box]]:
    """Where a name of this width may stand: above, below, right, left; and how many steps farther off."""
    middle = (first + last - wide) / 2
    high, gap = 1.2 * _SIZE, _MARK + 2
    for steps in range(3):
        away = steps * high
        for left, bottom in (
            (middle, y + gap + away - 1),
            (middle, y - gap - away - high),
            (last + gap, y - high / 2 + away),
            (first - gap - wide, y - high / 2 + away),
            (last + gap, y - high / 2 - away),
            (first - gap - wide, y - high / 2 - away),
        ):
            yield steps, _Box(left, bottom, left + wide, bottom + high)
