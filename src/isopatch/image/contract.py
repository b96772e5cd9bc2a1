"""What a model expects of an image. The contract travels with the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from isopatch.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

Resize = Literal["shorter", "squash"]
Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """Size, resize, crop and normalisation a model was trained for; colour order is always RGB.

    height, width: pixels of the tensor handed to the model.
    resize: "shorter" scales so that the picture covers (height, width) / crop_fraction, keeping its
        aspect, then cuts the centre; "squash" scales to exactly (height, width) / crop_fraction.
    crop_fraction: share of the resized side that the centre crop keeps, in (0, 1].
    mean, std: per channel, on pixels scaled to 0..1.
    """

    height: int
    width: int
    resize: Resize = "shorter"
    interpolation: Interpolation = "bicubic"
    crop_fraction: float = 0.875
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Refuse what no picture can be prepared for."""
        if self.height < 1 or self.width < 1:
            raise UsageError(f"input size {self.height}x{self.width}: both sides must be at least 1 pixel")
        if not 0 < self.crop_fraction <= 1:
            raise UsageError(f"crop_fraction {self.crop_fraction}: give a share in (0, 1]")
        if min(self.std) <= 0:
            raise UsageError(f"std {self.std}: every channel's deviation must be positive")

    def to_json(self) -> dict[str, Any]:
        """Return the contract as plain JSON values; the inverse of `from_json`."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> InputContract:
        """Rebuild a contract from `to_json`'s result; unknown keys raise `UsageError`."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise UsageError(f"input contract has unknown keys {unknown}; this file is from another version")
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)
