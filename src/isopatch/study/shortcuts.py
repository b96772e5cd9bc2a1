"""Settings of a study: dotted or nested keys of a run configuration, and names for what studies vary most.

Most shortcuts stand for one key. Those in `LATE` depend on the rest of the run (its model, its depth) and are
expanded last.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isopatch.errors import UsageError, nearest
from isopatch.models.architectures import architecture_function
from isopatch.models.spec import resolve as model_entry
from isopatch.recipes.schema import annotation_of, is_group, leaves

Settings = dict[str, Any]

# shortcut -> the key it stands for
KEYS = {
    "patch_size": "model.patch_size",
    "kernel_size": "model.kernel_size",
    "width": "model.dim",
    "depth": "model.depth",
    "mixer": "model.token_mixer",
    "stem": "model.stem",
    "activation": "model.activation",
    "norm": "model.norm",
    "norm_place": "model.norm_place",
    "residuals": "model.residual",
    "resolution": "model.image_size",
    "teacher": "distill.teacher",
    "data_fraction": "data.fraction",
    "data": "data.source",
    "model": "model.name",
}
NO_AUGMENTATION = {
    "augment.crop": "none",
    "augment.flip": 0.0,
    "augment.rand_augment": None,
    "augment.torchvision_ops": 0,
    "augment.three_augment": False,
    "augment.color_jitter": 0.0,
    "augment.erasing": 0.0,
    "augment.repeats": 1,
    "mix.mixup": 0.0,
    "mix.cutmix": 0.0,
}
NO_REGULARISATION = {"optimizer.weight_decay": 0.0, "objective.label_smoothing": 0.0}
DROPPING = ("drop_path", "dropout", "attention_dropout", "embedding_dropout")  # arguments of models
PYRAMID_STAGES = 3
DISTILLATION: dict[str, Settings] = {
    "none": {},
    **{kind: {"distill.kind": kind, "distill.token": False} for kind in ("hard", "soft", "both")},
    **{f"{kind}-token": {"distill.kind": kind, "distill.token": True} for kind in ("hard", "soft", "both")},
}


def _augmentation(value: Any, _settings: Settings) -> Settings:
    return {} if _switch("augmentation", value) else dict(NO_AUGMENTATION)


def _regularisation(value: Any, settings: Settings) -> Settings:
    if _switch("regularisation", value):
        return {}
    taken = inspect.signature(architecture_function(_architecture(settings))).parameters
    return {**NO_REGULARISATION, **{f"model.{name}": 0.0 for name in DROPPING if name in taken}}


def _pyramid(value: Any, settings: Settings) -> Settings:
    stages = value if isinstance(value, int) and not isinstance(value, bool) else None
    if stages is None:
        stages = PYRAMID_STAGES if _switch("pyramid", value) else 1
    if stages == 1:
        return {}
    depth = settings.get("model.depth")
    if not isinstance(depth, int) or not 1 < stages <= depth:
        raise UsageError(f"pyramid: {stages} stages need model.depth of as many blocks or more, not {depth}")
    edges = [depth * i // stages for i in range(stages + 1)]
    return {"model.stage_depths": [b - a for a, b in itertools.pairwise(edges)]}


def _distillation(value: Any, settings: Settings) -> Settings:
    kind = "none" if value in (None, False) else str(value)
    if kind not in DISTILLATION:
        raise UsageError(
            f"distillation: '{kind}' is none of {', '.join(DISTILLATION)}{nearest(kind, DISTILLATION)}"
        )
    if kind == "none":  # what else says how to be taught would have no effect, and be refused for it
        for key in [key for key in settings if key.startswith("distill.") and key != "distill.views"]:
            del settings[key]
    return dict(DISTILLATION[kind])


LATE: dict[str, Callable[[Any, Settings], Settings]] = {
    "augmentation": _augmentation,
    "regularisation": _regularisation,
    "pyramid": _pyramid,
    "distillation": _distillation,
}
SHORTCUTS = (*KEYS, *LATE)


def flat(settings: Mapping[str, Any], problems: list[str], where: str) -> Settings:
    """Return settings with dotted keys and `LATE` shortcuts alone; unknown keys are noted as problems."""
    found: Settings = {}

    def put(key: str, value: Any) -> None:
        if key in found and found[key] != value:
            problems.append(f"{where}: {key} is given twice; keep one")
        found[key] = value

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and is_group(tuple(prefix.split("."))):
            for key, inner in value.items():
                walk(f"{prefix}.{key}", inner)
            return
        if isinstance(value, Mapping):
            problems.append(f"{where}: {prefix}: is one value, not a group of keys")
            return
        problem = key_problem(prefix)
        if problem is not None:
            problems.append(f"{where}: {problem}")
            return
        put(KEYS.get(prefix, prefix), value)

    for key, value in settings.items():
        walk(str(key), value)
    return found


def key_problem(key: str) -> str | None:
    """Say what is wrong with the name of a setting; None where it is a shortcut or a configuration's key."""
    if key in SHORTCUTS:
        return None
    path = tuple(key.split("."))
    if path[0] == "model" and len(path) == 2:
        return None  # an argument of the model: checked against its architecture function
    if annotation_of(path) is not None:
        return None
    if is_group(path):
        return f"{key}: is a group of keys; give one of them, as {key}.<key>"
    known = [*SHORTCUTS, *leaves()]
    same_end = [name for name in known if name.split(".")[-1] == path[-1]]
    hint = f" (did you mean '{same_end[0]}'?)" if same_end else nearest(key, known)
    return f"{key}: unknown key{hint}"


def expanded(layers: Sequence[Settings]) -> Settings:
    """Return one set of settings from layers of flat ones, later ones first in rank, shortcuts expanded.

    What a `LATE` shortcut sets ranks below what is set beside it, and above what earlier layers set.
    Raises UsageError for a value that a shortcut does not know.
    """
    rank = {key: number for number, layer in enumerate(layers) for key in layer}
    settings = {key: layer[key] for layer in layers for key in layer}
    late = {key: settings.pop(key) for key in LATE if key in settings}
    for key, value in late.items():
        for name, implied in LATE[key](value, settings).items():
            if rank.get(name, -1) < rank[key]:
                settings[name] = implied
    return settings


def _switch(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("on", "off"):
        return bool(value == "on")
    raise UsageError(f"{name}: {value!r} is neither on nor off (true, false)")


def _architecture(settings: Settings) -> str:
    return model_entry(str(settings.get("model.name"))).architecture
