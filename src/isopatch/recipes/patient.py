"""Recipe `patient`: distillation as function matching (Beyer et al. 2022, arXiv 2106.05237).

    source    the paper's rules: teacher and student see the same crop, flip and mixup, no labels are used, KL
              at temperature 1, a schedule as long as one can afford; the rest is the recipe `small`
    command   isopatch train --data FOLDER --model NAME --recipe patient --teacher SOURCE --epochs 1200
    expected  the longer the better; the paper: ResNet-50 on ImageNet 82.8 % after 9600 epochs
    hardware  2 CPU cores upwards; --distill.cache with --distill.views N asks the teacher for N epochs only
    hours     minutes to weeks

What to know: mixup is drawn for every batch with a uniform weight; above 64 pixels crops are cut from 8 to
100 % of the area. The paper optimises with Adam or Shampoo; this is AdamW.
"""

from __future__ import annotations

from isopatch.recipes.fit import Notes
from isopatch.recipes.small import SMALL_PICTURE, picture_side, small
from isopatch.training.config import MixConfig, ModelNode, ObjectiveConfig, RunConfig
from isopatch.training.distill_config import DistillConfig


def patient(model: ModelNode, source: str, notes: Notes) -> RunConfig:
    """Match a teacher's function on mixed pictures, without labels, for long."""
    base = small(model, source, notes)
    wide = picture_side(model) > SMALL_PICTURE
    return base.model_copy(
        update={
            "recipe": "patient",
            "augment": base.augment.model_copy(update={"scale": (0.08, 1.0)} if wide else {}),
            "mix": MixConfig(mixup=1.0),
            "objective": ObjectiveConfig(),
            "distill": DistillConfig(
                teacher="auto", kind="soft", temperature=1.0, label_weight=0.0, soft_weight=1.0
            ),
            "epochs": 300,
        }
    )
