"""The teacher that `--teacher auto` trains first: a convnet of moderate size, from scratch on the same data.

A convnet teaches a transformer more than another transformer does (DeiT, table 2). Up to 64 pixels a CIFAR
ResNet-20 (He et al. 2015), above a ResNet-18. Everything else is the recipe `small`; the pictures and how
they are split are the student's, so that no picture the student is judged on was seen.
Expected on the built-in digits: about 95 % in half a minute on two CPU cores.
"""

from __future__ import annotations

from isopatch.recipes.fit import arguments_of, fitting_batch
from isopatch.recipes.small import SMALL_PICTURE, picture_side, small
from isopatch.training.config import ModelNode, RunConfig


def auto_teacher(student: RunConfig, pictures: int) -> RunConfig:
    """Return the configuration of the teacher for a student; the same for every seed of it.

    pictures: how many there are to train on. They are as large as the student's, rectangles too: the teacher
    is shown those.
    """
    name = "cifar_resnet20" if picture_side(student.model) <= SMALL_PICTURE else "timm:resnet18"
    size = arguments_of(student.model).get("image_size", 224)
    base = small(ModelNode.model_validate({"name": name, "image_size": size}), student.data.source, [])
    return base.model_copy(
        update={
            "data": student.data,
            "batch_size": fitting_batch(base.batch_size, pictures),
            "precision": student.precision,
            "kernels": student.kernels,
            "device": student.device,
            "threads": student.threads,
        }
    )
