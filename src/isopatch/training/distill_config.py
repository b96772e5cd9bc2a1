"""How a student is taught: the `distill` node of the run configuration. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from isopatch.training.node import Fraction, Node, NonNegative, Positive

Kind = Literal["hard", "soft", "both"]
Convention = Literal["paper", "deit-code", "timm"]


class Weights(NamedTuple):
    """Factors of the three terms of the loss."""

    label: float
    hard: float
    soft: float


# What each source does when nothing else is said. paper: Touvron et al. 2021, equations 2 and 3, and Hinton's
# lambda 0.1, tau 3; deit-code: facebookresearch/deit, losses.py and its command line's defaults; timm: its
# token distillation, both terms in full. "both" is nobody's: the terms keep the weights they have alone.
WEIGHTS: dict[tuple[Convention, Kind], Weights] = {
    ("paper", "hard"): Weights(0.5, 0.5, 0.0),
    ("paper", "soft"): Weights(0.9, 0.0, 0.1),
    ("paper", "both"): Weights(0.4, 0.5, 0.1),
    ("deit-code", "hard"): Weights(0.5, 0.5, 0.0),
    ("deit-code", "soft"): Weights(0.5, 0.0, 0.5),
    ("deit-code", "both"): Weights(0.5, 0.25, 0.25),
    ("timm", "hard"): Weights(1.0, 1.0, 0.0),
    ("timm", "soft"): Weights(1.0, 0.0, 1.0),
    ("timm", "both"): Weights(1.0, 1.0, 1.0),
}
TEMPERATURES: dict[Convention, float] = {"paper": 3.0, "deit-code": 1.0, "timm": 4.0}


class DistillConfig(Node):
    """Learn from a teacher beside the labels (Hinton et al. 2015; DeiT, section 4).

    The teacher sees the student's augmented and mixed picture, in its own normalisation and size.
    """

    teacher: str | None = Field(
        None,
        description="run, checkpoint, hub id, timm:NAME, torchvision:NAME, NAME=FILE, or auto; "
        "several with commas",
    )
    kind: Kind = Field("hard", description="the teacher's decision, its softened probabilities, or both")
    token: bool | None = Field(
        None, description="through the distillation token; None: where the model has one"
    )
    convention: Convention = Field(
        "paper", description="default weights and temperature, and what soft distillation is divided by"
    )
    temperature: Annotated[float, Field(gt=0)] | None = Field(
        None, description="of soft distillation; None: the convention's (3, 1, 4)"
    )
    label_weight: NonNegative | None = Field(None, description="of the true labels; None: the convention's")
    hard_weight: NonNegative | None = None
    soft_weight: NonNegative | None = None
    feature_weight: NonNegative = Field(
        0.0, description="of the squared distance between feature maps, the student's projected"
    )
    cache: str | None = Field(None, description="folder that keeps what the teacher said, for further runs")
    cache_top_k: Positive | None = Field(
        None, description="logits kept per picture; None: as many as cache_tolerance asks for"
    )
    cache_tolerance: Fraction = Field(
        0.01, description="how far the kept logits may move the soft loss, as a share of a blind student's"
    )
    views: Positive | None = Field(
        None, description="epochs after which order, augmentation and mixing repeat; None: never"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        unused = {"hard": "soft_weight", "soft": "hard_weight"}.get(self.kind)
        if unused is not None and getattr(self, unused) is not None:
            raise ValueError(f"distill.{unused} has no effect with distill.kind {self.kind}; leave it out")
        if self.kind == "hard" and self.temperature is not None:
            raise ValueError("distill.temperature has no effect with distill.kind hard; leave it out")
        tolerance = type(self).model_fields["cache_tolerance"].default
        for key, given in (
            ("cache_top_k", self.cache_top_k is not None),
            ("cache_tolerance", self.cache_tolerance != tolerance),
        ):
            if given and self.cache is None:
                raise ValueError(f"distill.{key} has no effect without distill.cache; give a folder")
        if self.cache_top_k is not None and self.cache_tolerance != tolerance:
            raise ValueError("distill.cache_tolerance has no effect with distill.cache_top_k; leave one out")
        if self.teacher is None:
            # views alone are allowed: an undistilled run that is to be compared sees the same pictures.
            given = sorted(self.model_fields_set - {"teacher", "views"})
            said = [key for key in given if getattr(self, key) != type(self).model_fields[key].default]
            if said:
                raise ValueError(f"distill.{said[0]} has no effect without distill.teacher; give one")
            return self
        parts = [part.strip() for part in self.teacher.split(",")]
        if "auto" in parts and len(parts) > 1:
            raise ValueError(f"distill.teacher '{self.teacher}': auto is trained for itself; give it alone")
        if self.cache is not None and self.feature_weight > 0:
            raise ValueError(
                "distill.cache keeps logits, and distill.feature_weight wants feature maps, which are too "
                "large to keep; leave one out"
            )
        if self.weights.hard + self.weights.soft + self.feature_weight == 0:
            raise ValueError("every weight of the teacher is 0: leave distill.teacher out")
        return self

    @property
    def active(self) -> bool:
        """Whether there is a teacher."""
        return self.teacher is not None

    @property
    def weights(self) -> Weights:
        """The three factors: given ones, else the convention's."""
        usual = WEIGHTS[self.convention, self.kind]
        label, hard, soft = self.label_weight, self.hard_weight, self.soft_weight
        return Weights(
            usual.label if label is None else label,
            usual.hard if hard is None else hard,
            usual.soft if soft is None else soft,
        )

    @property
    def tau(self) -> float:
        """The temperature: the given one, else the convention's."""
        return TEMPERATURES[self.convention] if self.temperature is None else self.temperature
