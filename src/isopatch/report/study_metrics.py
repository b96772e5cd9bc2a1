"""What the columns of the results table measure, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass

from isopatch.report.wording import MISSING, count, decimal, duration, number, rate, si

SHARES = ("top1", "top5", "val_top1", "macro_recall", "ece")
COSTS = {
    "parameters": ("parameters", False),
    "macs": ("multiply-adds of a picture", False),
    "images_per_second": ("training pictures per second", True),
    "training_flops": ("training FLOPs", False),
    "seconds": ("seconds of training without validation", False),
}
"""Column -> (what it is, whether more is better): the axes of the Pareto fronts."""

COST_HEADS = ("parameters", "MACs", "images/s", "FLOPs", "training time")
"""The same, short, for the heads of tables."""

_NAMES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "val_top1": "validation top-1 accuracy",
    "macro_recall": "mean recall of the classes",
    "ece": "calibration error",
    "nll": "negative log-likelihood",
}


@dataclass(frozen=True)
class Metric:
    """A column of the results. scale: 100 where it is a share and differences are points, else 1."""

    column: str
    name: str
    scale: float

    def value(self, value: float | None) -> str:
        """0.8312 -> 83.12 % for shares; four digits for others."""
        found = number(value)
        if found is None:
            return MISSING
        return f"{100 * found:.2f} %" if self.scale == 100 else decimal(found)

    def difference(self, value: float, *, sign: bool = True) -> str:
        """0.0123 -> +1.23 points; a real minus sign."""
        text = f"{self.scale * value:{'+' if sign else ''}.2f}" if self.scale == 100 else f"{value:+.4g}"
        if float(text) == 0:
            text = text.lstrip("+-")
        return text.replace("-", "\u2212") + (" points" if self.scale == 100 else "")

    def interval(self, interval: tuple[float, float]) -> str:
        """(0.001, 0.02) -> +0.10 to +2.00, without the unit."""
        low, high = (self.difference(end).removesuffix(" points") for end in interval)
        return f"{low} to {high}"


def metric_of(column: str) -> Metric:
    """Return what a column is; probes are shares."""
    share = column in SHARES or column.startswith("probe.")
    name = _NAMES.get(column, column.removeprefix("probe.") if column.startswith("probe.") else column)
    if column in COSTS:
        name = COSTS[column][0]
    return Metric(column, name, 100.0 if share else 1.0)


def cost_text(column: str, value: float | None) -> str:
    """Write a cost as people read it."""
    if value is None:
        return MISSING
    if column == "seconds":
        return duration(value)
    if column == "images_per_second":
        return rate(value)
    if column == "training_flops":
        digits, power = f"{value:.2e}".split("e")
        return f"{digits}e{int(power)}"
    return si(value) if column in COSTS else count(value)
