"""Every recipe by name, with the line the help shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from isopatch.errors import UsageError, nearest
from isopatch.recipes.convmixer import convmixer, convmixer_cifar
from isopatch.recipes.deit import deit, deit_384
from isopatch.recipes.deit3 import deit3, deit3_finetune
from isopatch.recipes.fit import Notes
from isopatch.recipes.mlp import mixer, resmlp
from isopatch.recipes.patient import patient
from isopatch.recipes.small import finetune, small
from isopatch.recipes.vit import LEVELS, vit_augreg, vit_finetune, vit_s16_simple
from isopatch.training.config import ModelNode, RunConfig


@dataclass(frozen=True)
class Recipe:
    """A named training procedure.

    build: (model, data source, notes) -> configuration. line: what it is, for the help.
    fine_tunes: whether it makes sense only from pretrained weights.
    """

    name: str
    build: Callable[[ModelNode, str, Notes], RunConfig]
    line: str
    fine_tunes: bool = False


RECIPES = (
    Recipe("small", small, "ours: small data on small machines, any model (the default)"),
    Recipe("finetune", finetune, "ours: pretrained weights to your data (the default with --weights)", True),
    Recipe("patient", patient, "learn a teacher's function without labels, 300 epochs; with --teacher"),
    Recipe("deit", deit, "DeiT, ImageNet from scratch, 300 epochs"),
    Recipe("deit-384", deit_384, "DeiT, fine-tuned at 384 pixels, 30 epochs", True),
    Recipe("deit3", deit3, "DeiT III, ImageNet from scratch, 800 epochs, LAMB"),
    Recipe("deit3-finetune", deit3_finetune, "DeiT III, fine-tuned at 224 or 384 pixels, 20 epochs", True),
    Recipe("convmixer", convmixer, "ConvMixer, ImageNet from scratch, 150 epochs (768/32: 300)"),
    Recipe("convmixer-cifar", convmixer_cifar, "ConvMixer, CIFAR-10 from scratch, 25 epochs"),
    Recipe("vit-finetune", vit_finetune, "ViT paper, fine-tuned at 384 pixels, SGD", True),
    Recipe("vit-augreg", vit_augreg, "ViT with AugReg, ImageNet from scratch, 300 epochs, level medium1"),
    *(
        Recipe(f"vit-augreg-{level}", partial(vit_augreg, level=level), f"the same, level {level}")
        for level in LEVELS
    ),
    Recipe("vit-s16-simple", vit_s16_simple, "SimpleViT, ImageNet from scratch, 90 epochs"),
    Recipe("mixer", mixer, "MLP-Mixer, ImageNet from scratch, 300 epochs"),
    Recipe("resmlp", resmlp, "ResMLP, ImageNet from scratch, 400 epochs, LAMB"),
)


def find_recipe(name: str) -> Recipe:
    """Return the recipe of this name; an unknown one raises UsageError with the nearest."""
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    names = [recipe.name for recipe in RECIPES]
    raise UsageError(f"'{name}' is no recipe{nearest(name, names)}; there are {', '.join(names)}")


def recipe_help() -> str:
    """Return one line per recipe, for the help."""
    width = max(len(recipe.name) for recipe in RECIPES)
    return "\n".join(f"  {recipe.name:<{width}}  {recipe.line}" for recipe in RECIPES)
