"""Explanations of weights, and of statistics over many pictures."""

from __future__ import annotations

from isopatch.explain import (
    distance,
    filters,
    kernels,
    positions,
    receptive_field,
    similarity,
    token_maps,
    two_tokens,
)
from isopatch.explain.contract import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "filters", "what the first layer looks for: principal components of the patch filters", "weights",
        filters.missing, filters.make, filters.SOURCE,
    ),
    Explanation(
        "kernels", "depthwise kernels by depth, and how far out their weight lies", "weights",
        kernels.missing, kernels.make, kernels.SOURCE,
    ),
    Explanation(
        "token-mixing", "the weights over places of MLP-Mixer, ResMLP and gMLP, by depth", "weights",
        token_maps.missing, token_maps.make, token_maps.SOURCE,
    ),
    Explanation(
        "positions", "how alike position entries are; whether they show rows, columns and waves", "weights",
        positions.missing, positions.make, positions.SOURCE,
    ),
    Explanation(
        "attention-distance", "how far each head, kernel or token-MLP looks, in pixels, by depth", "data",
        distance.missing, distance.make, distance.SOURCE, compares=True,
    ),
    Explanation(
        "receptive-field", "which pixels the middle token depends on, and how far out, by depth", "data",
        receptive_field.any_model, receptive_field.make, receptive_field.SOURCE,
    ),
    Explanation(
        "layers", "which layers of the model see pictures alike (CKA)", "data",
        similarity.any_model, similarity.make_layers, similarity.SOURCE,
    ),
    Explanation(
        "tokens", "the distillation token beside the class token, by depth", "data",
        similarity.two_tokens, two_tokens.make, "Touvron et al. 2021, section 4",
    ),
    Explanation(
        "similarity", "which layers see pictures as another model's do, and whose are nearer (CKA)", "other",
        similarity.any_model, similarity.make_similarity, similarity.SOURCE, compares=True,
    ),
)  # fmt: skip
