"""PNG pictures: where one may be written, and the same bytes for the same figure."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from isopatch.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUIET = "#5a6068"  # of what is said beside the data


def plot_file(name: str) -> Path:
    """Return the path of a plot asked for by name; raises UsageError before anything is measured in vain."""
    path = Path(name)
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot {name}: the plot is a PNG picture; give a name that ends in .png")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {name}: there is no folder {path.parent}")
    return path


def to_png(figure: Figure) -> bytes:
    """Render a figure, in the style in force."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
