"""Open trained weights of any kind: our runs and checkpoints, timm's and the authors' files, hub ids."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from isopatch.errors import UsageError
from isopatch.image.names import printable
from isopatch.models.adapt import fresh_distillation, fresh_heads, resized_positions
from isopatch.models.foreign import classes_in, entry_for, input_in, to_native_names
from isopatch.models.formats import timm_config, transformers
from isopatch.models.formats.files import read_state
from isopatch.models.formats.keymap import State
from isopatch.models.locate import Found, averaged, locate
from isopatch.models.matching import load_partial, load_strict, require_common
from isopatch.models.native import read_config, read_spec
from isopatch.models.resize import ResizeMode
from isopatch.models.spec import ModelSpec, build, make_spec, resolve
from isopatch.models.tally import Tally, identities, reshaped_in
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid
from isopatch.nn.resnet_stem import hybrid_grid, reduction

log = logging.getLogger("isopatch")

ImageSize = int | tuple[int, int] | Sequence[int]


def load(
    source: str | Path,
    name: str | None = None,
    num_classes: int | None = None,
    *,
    image_size: ImageSize | None = None,
    arguments: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    position_resize: ResizeMode = "deit",
    partial: bool = False,
    ema: bool = False,
) -> Classifier:
    """Return a model with the weights of `source`, on the CPU, in eval mode; its `spec` says what it is.

    source: a run folder (its best/, else its newest whole checkpoint), best/, a checkpoint folder, a
        .safetensors, .pth, .pth.tar, .pt or .bin file, or a hub id (timm/NAME, hf-hub:OWNER/NAME).
    name: the model of a foreign file; not needed where a config.json beside it says so, and then it may only
        confirm it (or name the distilled twin, whose second token is fresh then).
    num_classes: another number than the file's gets a new classifier. None keeps the file's.
    image_size: another size than the weights' resizes learned positions; prefix entries are kept.
    position_resize: how: "deit", "timm", "hf" (bicubic) or "jax" (bilinear); see `isopatch.models.resize`.
    arguments: overrides of architecture arguments that leave the weights' shapes alone (drop_path=0.1).
    class_names: names of the outputs; other names than the stored ones also get a new classifier. A file
        that names none keeps a classifier of as many outputs, taken in the order given, with a warning.
    partial: take what fits by name and shape and leave the rest of the model fresh: "loaded X of Y tensors"
        is logged, X = 0 is an error.
    ema: the moving average of the weights, where the source holds one beside them.
    Everything else is strict. What was made anew, resized or ignored is logged.
    Raises UsageError when the request is wrong, IsopatchError when the file is damaged, refused or misfits.
    """
    return open_weights(
        source,
        name,
        num_classes,
        image_size=image_size,
        arguments=arguments,
        class_names=class_names,
        position_resize=position_resize,
        partial=partial,
        ema=ema,
    ).model


class Opened(NamedTuple):
    """A model with its weights, how they met, and the file they came from (with its config.json)."""

    model: Classifier
    tally: Tally
    found: Found


def open_weights(
    source: str | Path,
    name: str | None = None,
    num_classes: int | None = None,
    *,
    image_size: ImageSize | None = None,
    arguments: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    position_resize: ResizeMode = "deit",
    partial: bool = False,
    ema: bool = False,
    grid: Grid | None = None,
) -> Opened:
    """Do what `load` does and tell how it went; the other arguments are `load`'s.

    grid: what learned positions of the file stand for, where nothing beside it says so.
    """
    if num_classes is not None and class_names is not None and num_classes != len(class_names):
        raise UsageError(f"num_classes {num_classes} contradicts the {len(class_names)} class_names")
    found = locate(source)
    if found.folder is not None and ema:
        found = averaged(found)
    raw, notes = read_state(found.weights, ema=ema and found.folder is None)
    for note in notes:
        log.info("%s: %s", found.weights, note)
    asked = dict(arguments or {})
    if image_size is not None:
        asked["image_size"] = image_size if isinstance(image_size, int) else tuple(image_size)
    where = str(found.weights)
    if found.folder is None:
        known = _foreign_spec(found, raw, name, asked)
        held = to_native_names(raw, known.spec.architecture)
    else:
        known = _native_spec(found.folder, name, asked)
        held = raw
    spec, new_classifier = _wanted(known.spec, held, num_classes, class_names, where=where, partial=partial)
    model = build(spec)
    require_common(model, held, where=where, name=spec.name)  # before new parts are put beside the file's
    state = held if new_classifier is None else fresh_heads(held, model, reason=new_classifier)
    if not (partial and "prefix.dist_token" in held):
        state = fresh_distillation(state, model, where=where, name=spec.name)
    fresh = {key for key, tensor in state.items() if key not in held or _is_new_head(key, tensor, held)}
    state = resized_positions(state, model, known.grid or grid, where=where, mode=position_resize)
    if partial:
        known_values = {key: tensor for key, tensor in state.items() if key not in fresh}
        loaded = load_partial(model, known_values, where=where, name=spec.name)
    else:
        load_strict(model, state, where=where, name=spec.name)
        loaded = [key for key in model.state_dict() if key in state]
    taken = [key for key in loaded if key not in fresh]
    moved = set(reshaped_in(state, identities(raw)))
    tally = Tally(
        in_file=len(raw),
        in_model=len(model.state_dict()),
        matched=len(taken),
        reshaped=tuple(key for key in taken if key in moved),
        left_over=tuple(key for key in held if key not in taken),
        missing=tuple(key for key in model.state_dict() if key not in taken),
    )
    return Opened(model.eval(), tally, found)


def _is_new_head(key: str, tensor: Tensor, held: State) -> bool:
    return key.startswith("heads.") and tensor is not held[key]


class _Known(NamedTuple):
    """The spec to build for the weights, and the grid they were trained at where that is known."""

    spec: ModelSpec
    grid: Grid | None


def _native_spec(folder: Path, name: str | None, asked: dict[str, Any]) -> _Known:
    """The stored spec with overrides; a name may only confirm it."""
    spec = read_spec(folder)
    if name is not None and resolve(name).name != spec.name:
        raise UsageError(f"{folder} holds {spec.name}, not {resolve(name).name}: leave the name out")
    grid = _grid(spec, spec.arguments["image_size"])
    if not asked:
        return _Known(spec, grid)
    changed = make_spec(spec.name, {**spec.arguments, **asked}, classes=spec.classes)
    resized = replace(spec.input, height=changed.input.height, width=changed.input.width)
    return _Known(replace(changed, input=resized), grid)


def _foreign_spec(found: Found, state: State, name: str | None, asked: dict[str, Any]) -> _Known:
    """The spec a foreign file's name and config.json give."""
    if transformers.is_transformers(found.config):
        return _transformers_spec(found, name, asked)
    entry = entry_for(name, found.config, found.weights)
    overrides, size = input_in(found.config)
    told = {} if name is not None else timm_config.arguments_told(found.config)
    if size is not None and name is None and not entry.plain:
        told.setdefault("image_size", size)
    given = {**told, **asked}
    count = classes_in(to_native_names(state, entry.architecture))
    if count is not None:
        given["num_classes"] = count
    classes = timm_config.classes_told(found.config)
    if classes is not None and len(classes) != count:
        classes = None
    spec = make_spec(entry.name, given, input_overrides=overrides, classes=classes)
    if entry.architecture == "convmixer" and found.config is None:
        log.info(
            "%s: does not say its activation; %s has %s (of the authors' weights 768/32 needs relu, the "
            "others gelu)",
            found.weights,
            entry.name,
            spec.arguments["activation"],
        )
    grid = None if size is None else _grid(spec, size)
    return _Known(spec, grid)


def _transformers_spec(found: Found, name: str | None, asked: dict[str, Any]) -> _Known:
    """The spec of a transformers folder, whose configuration says everything; a name may only confirm it."""
    assert found.config is not None
    beside = found.weights.parent / "preprocessor_config.json"
    preprocessor = read_config(beside) if beside.is_file() else None
    told = transformers.told_by(found.config, preprocessor, where=str(found.weights))
    if name is not None and resolve(name).architecture != told.name:
        raise UsageError(
            f"{found.weights}: holds a {told.name}, not {resolve(name).name}: leave the name out"
        )
    own = {**told.arguments, "num_classes": len(found.config.get("id2label") or ()) or 1000}
    spec = make_spec(told.name, {**own, **asked}, input_overrides=told.input, classes=told.classes)
    return _Known(spec, _grid(spec, told.arguments["image_size"]))


def _wanted(
    spec: ModelSpec,
    state: State,
    num_classes: int | None,
    class_names: Sequence[str] | None,
    *,
    where: str,
    partial: bool,
) -> tuple[ModelSpec, str | None]:
    """Return (the spec with the wanted classes, why the classifier is new or None)."""
    names = None if class_names is None else tuple(class_names)
    wanted = num_classes if num_classes is not None else len(names) if names is not None else None
    count = classes_in(state)
    if count is None and wanted is None and partial:
        return spec, None  # the classifier is one of the parts that stay fresh
    if count is None and wanted is None:
        raise UsageError(f"{where}: has no classifier; give num_classes to put a new one on it")
    if wanted is None:
        return spec, None
    reason = None
    if count is None:
        reason = f"the file has none, {wanted} classes wanted"
    elif wanted != count:
        reason = f"the file's has {count} classes, {wanted} wanted"
    elif names is not None and spec.classes is not None and names != spec.classes:
        reason = "the file's has other class names"
    elif names is not None and spec.classes is None:
        log.warning(
            "%s: does not name its classes; its %d outputs are taken in the order given: %s",
            where,
            count,
            _few(names),
        )
    kept_names = spec.classes if reason is None and names is None else names
    changed = replace(spec, arguments={**spec.arguments, "num_classes": wanted}, classes=kept_names)
    return changed, reason


def _few(names: Sequence[str]) -> str:
    """The first names, the last one, and a gap between them where there are many."""
    shown = names if len(names) <= 4 else (*names[:2], "...", names[-1])
    return ", ".join(printable(name) for name in shown)


def _grid(spec: ModelSpec, image_size: Any) -> Grid | None:
    """The grid of a model's patches on pictures of a size; None for models without patches."""
    patch = spec.arguments.get("patch_size")
    if patch is None:
        return None
    layers = spec.arguments.get("layers")
    if layers is not None:  # a hybrid's patches are cut from its ResNet's map
        return hybrid_grid(image_size, patch, reduction(layers))
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height // patch, width // patch
