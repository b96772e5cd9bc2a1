"""The model and recipe for pictures about which nothing is said: sized to them, their number, the machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from isopatch.recipes.fit import fitting_batch


class Summary(Protocol):
    """What the choice looks at: `isopatch.data.summary.DataSummary` fits."""

    @property
    def num_images(self) -> int:
        """Training pictures."""
        ...

    @property
    def num_classes(self) -> int:
        """Classes."""
        ...

    @property
    def median_height(self) -> float:
        """Rows of pixels."""
        ...

    @property
    def median_width(self) -> float:
        """Columns of pixels."""
        ...

    @property
    def fixed_size(self) -> bool:
        """Whether all pictures have one size."""
        ...


@dataclass(frozen=True)
class PictureSummary:
    """A summary given as plain values. num_images: training pictures."""

    num_images: int
    num_classes: int
    median_height: float
    median_width: float
    fixed_size: bool


DIGITS = PictureSummary(1438, 10, 8, 8, True)


@dataclass(frozen=True)
class DefaultChoice:
    """A default: what to train and how, and the sentence that says why.

    arguments: of the architecture function. overrides: dotted keys above the recipe's values.
    """

    model: str
    arguments: dict[str, Any]
    recipe: str
    overrides: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


BUDGET_SECONDS = 15 * 60  # a first result before one loses patience
MACS_PER_CORE_SECOND = 3.5e9  # ConvMixer training steps on AMX cores, measured at 32x32
MIN_EPOCHS, MAX_EPOCHS = 10, 60


def choose(summary: Summary, *, cores: int) -> DefaultChoice:
    """Return a ConvMixer that these pictures and this many CPU cores suit, for about a quarter of an hour.

    ConvMixer, because from scratch on few pictures it beats a ViT of the same cost. Up to 12 pixels every
    pixel is a patch; up to 64 the pictures keep their size; larger ones are scaled to 96..224 pixels with a
    16x16 grid of patches.
    """
    side = min(summary.median_height, summary.median_width)
    if side <= 12:
        arguments = _sizes(dim=64, depth=4, kernel=3, patch=1, image_size=max(4, round(side)))
    elif side <= 64:
        patch = 2 if cores >= 16 else 4
        size = max(8, round(side / patch) * patch)
        wide = cores >= 8
        arguments = _sizes(
            dim=256 if wide else 128, depth=8 if wide else 4, kernel=5, patch=patch, image_size=size
        )
    else:
        size = _photo_size(side, summary.num_images, cores)
        wide = cores >= 8
        arguments = _sizes(
            dim=256 if wide else 128, depth=8 if wide else 6, kernel=7, patch=size // 16, image_size=size
        )
    rate = cores * MACS_PER_CORE_SECOND / _macs(arguments)
    epochs = int(min(MAX_EPOCHS, max(MIN_EPOCHS, BUDGET_SECONDS * rate / max(1, summary.num_images))))
    batch_size = fitting_batch(64 if summary.num_images < 5000 else 128, summary.num_images)
    size = arguments["image_size"]
    reason = (
        f"no model was named: {summary.num_images:,} training pictures of about "
        f"{summary.median_height:.0f}x{summary.median_width:.0f} pixels in {summary.num_classes} classes and "
        f"{cores} CPU core{'s' if cores != 1 else ''} suggest a "
        f"ConvMixer-{arguments['dim']}/{arguments['depth']} (kernel {arguments['kernel_size']}, patch "
        f"{arguments['patch_size']}) at {size}x{size} pixels, recipe small, {epochs} epochs"
    )
    return DefaultChoice(
        "convmixer", arguments, "small", {"epochs": epochs, "batch_size": batch_size}, reason
    )


def _photo_size(side: float, num_images: int, cores: int) -> int:
    """Return the side to train photographs at: smaller for a small machine or very many pictures."""
    wanted = 224 if cores >= 32 else 160 if cores >= 8 else 128
    if num_images > 20_000 and cores < 32:
        wanted -= 32
    return max(64, min(wanted, int(side) // 16 * 16))


def _sizes(*, dim: int, depth: int, kernel: int, patch: int, image_size: int) -> dict[str, Any]:
    return {
        "dim": dim,
        "depth": depth,
        "kernel_size": kernel,
        "patch_size": patch,
        "image_size": image_size,
    }


def _macs(arguments: dict[str, Any]) -> float:
    """Return multiply-adds of a ConvMixer forward pass without its head (Trockman and Kolter 2022)."""
    dim, kernel, patch = arguments["dim"], arguments["kernel_size"], arguments["patch_size"]
    tokens = (arguments["image_size"] / patch) ** 2
    return float(tokens * (dim * 3 * patch**2 + arguments["depth"] * dim * (kernel**2 + dim)))
