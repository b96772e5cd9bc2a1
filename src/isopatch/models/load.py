"""Open trained weights of any kind: our runs and checkpoints, timm's and the authors' files, hub ids."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from isopatch.errors import UsageError
from isopatch.image.names import printable
from isopatch.models.adapt import fresh_distillation, fresh_heads, resized_positions
from isopatch.models.architectures import architecture_module
from isopatch.models.external.names import is_external
from isopatch.models.external.wrapper import External
from isopatch.models.foreign import arguments_in, classes_in, entry_for, input_in, to_native_names
from isopatch.models.formats import transformers
from isopatch.models.formats.files import read_state
from isopatch.models.formats.keymap import State
from isopatch.models.locate import Found, locate
from isopatch.models.matching import load_strict, require_common
from isopatch.models.native import read_config, read_spec
from isopatch.models.patch_resize import resized_patches
from isopatch.models.resize import Change, ResizeMode
from isopatch.models.spec import ModelSpec, build, make_spec, resolve
from isopatch.models.token_resize import resized_token_maps, widened
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid
from isopatch.nn.resnet_stem import hybrid_grid, reduction
from isopatch.nn.stem import as_pair

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
) -> Classifier:
    """Return a model with the weights of `source`, on the CPU, in eval mode; its `spec` says what it is.

    source: a run folder (its best/, else its newest whole checkpoint), best/, a checkpoint folder, a
        .safetensors, .pth, .pth.tar, .pt or .bin file, a hub id (timm/NAME, hf-hub:OWNER/NAME), or a name of
        timm's or torchvision's with published weights (timm:NAME, torchvision:NAME).
    name: the model of a foreign file; not needed where a config.json beside it says so, and then it may only
        confirm it (or name the distilled twin, whose second token is fresh then).
    num_classes: another number than the file's gets a new classifier. None keeps the file's.
    image_size: another size than the weights' resizes learned positions; prefix entries are kept. Token-MLPs
        go to whole multiples of their grid, see `isopatch.models.token_resize`.
    position_resize: how: "deit", "timm", "hf" (bicubic) or "jax" (bilinear); see `isopatch.models.resize`.
    arguments: overrides of architecture arguments that leave the weights' shapes alone (drop_path=0.1); and
        patch_size, which resizes the patch kernels, see `isopatch.models.patch_resize`.
    class_names: names of the outputs; other names than the stored ones also get a new classifier. A file
        that names none keeps a classifier of as many outputs, taken in the order given, with a warning.
    Everything else is strict. What was made anew, resized or ignored is logged.
    Raises UsageError when the request is wrong, IsopatchError when the file is damaged, refused or misfits.
    """
    opened = open_weights(source)
    return fit(
        opened,
        name,
        num_classes,
        image_size=image_size,
        arguments=arguments,
        class_names=class_names,
        position_resize=position_resize,
    )


class OpenedWeights(NamedTuple):
    """Weights read into memory, in the names of their file."""

    found: Found
    state: State


def open_weights(source: str | Path) -> OpenedWeights:
    """Find and read weights, to be built into models by `fit`, at one size or several."""
    found = locate(source)
    state, notes = read_state(found.weights)
    for note in notes:
        log.info("%s: %s", found.weights, note)
    return OpenedWeights(found, state)


def fit(
    opened: OpenedWeights,
    name: str | None = None,
    num_classes: int | None = None,
    *,
    image_size: ImageSize | None = None,
    arguments: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    position_resize: ResizeMode = "deit",
    changes: list[Change] | None = None,
) -> Classifier:
    """Build the model of opened weights; everything as `load` does. changes: receives what was resized."""
    if num_classes is not None and class_names is not None and num_classes != len(class_names):
        raise UsageError(f"num_classes {num_classes} contradicts the {len(class_names)} class_names")
    found, state = opened
    asked = dict(arguments or {})
    if image_size is not None:
        asked["image_size"] = image_size if isinstance(image_size, int) else tuple(image_size)
    where = str(found.weights)
    known = (
        _foreign(found, state, name, asked)
        if found.folder is None
        else _native(found.folder, state, name, asked)
    )
    state = known.state
    spec, new_classifier = _wanted(known.spec, state, num_classes, class_names, where=where)
    model = build(widened(spec, state, known.grid, grid_of(spec.architecture, spec.arguments)))
    require_common(model, state, where=where, name=spec.name)  # before new parts are put beside the file's
    if new_classifier is not None:
        state = fresh_heads(state, model, reason=new_classifier)
    state = fresh_distillation(state, model, where=where, name=spec.name)
    changes = [] if changes is None else changes
    count = len(changes)
    state = resized_patches(state, model, where=where, asked="patch_size" in asked, changes=changes)
    same_patch = len(changes) == count
    state = resized_token_maps(state, model, known.grid, where=where, same_patch=same_patch, changes=changes)
    state = resized_positions(state, model, known.grid, where=where, mode=position_resize, changes=changes)
    if isinstance(model, External):
        state = model.refit(state)
    load_strict(model, state, where=where, name=spec.name)
    return model.eval()


class _Known(NamedTuple):
    """The weights in our names, the spec to build for them, and the grid they were trained at if known."""

    state: State
    spec: ModelSpec
    grid: Grid | None


def _native(folder: Path, state: State, name: str | None, asked: dict[str, Any]) -> _Known:
    """Our own weights: the stored spec with overrides; a name may only confirm it."""
    spec = read_spec(folder)
    if name is not None and resolve(name).name != spec.name:
        raise UsageError(f"{folder} holds {spec.name}, not {resolve(name).name}: leave the name out")
    grid = grid_of(spec.architecture, spec.arguments)
    if not asked:
        return _Known(state, spec, grid)
    changed = make_spec(spec.name, {**spec.arguments, **asked}, classes=spec.classes)
    resized = replace(spec.input, height=changed.input.height, width=changed.input.width)
    return _Known(state, replace(changed, input=resized), grid)


def _foreign(found: Found, state: State, name: str | None, asked: dict[str, Any]) -> _Known:
    """Other people's weights: the spec is what their name and config.json give."""
    if transformers.is_transformers(found.config):
        return _transformers(found, state, name, asked)
    if name is not None and found.name is not None and resolve(name).name != found.name:
        raise UsageError(f"{found.name} and {name} are two models: keep one")
    name = name or found.name
    entry = entry_for(name, found.config, found.weights)
    overrides, size = input_in(found.config)
    external = is_external(entry.name)
    told = {} if name is not None and found.name is None else arguments_in(found.config)
    if size is not None and (external or (name is None and not entry.plain)):
        told.setdefault("image_size", size)
    given = {**told, **asked}
    if external:
        arguments = {**entry.arguments, **given}
        state = architecture_module(entry.architecture).native_state(
            state, arguments, where=str(found.weights)
        )
    else:
        state = to_native_names(state, entry.architecture)
    count = classes_in(state)
    if count is not None:
        given["num_classes"] = count
    spec = make_spec(entry.name, given, input_overrides=overrides)
    before = {**spec.arguments, **entry.arguments, "image_size": size}  # its own patches, not those asked for
    return _Known(state, spec, None if size is None else grid_of(spec.architecture, before))


def _transformers(found: Found, state: State, name: str | None, asked: dict[str, Any]) -> _Known:
    """A transformers folder, whose configuration says everything; a name may only confirm it."""
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
    state = to_native_names(state, spec.architecture)
    return _Known(state, spec, grid_of(spec.architecture, {**spec.arguments, **told.arguments}))


def _wanted(
    spec: ModelSpec,
    state: State,
    num_classes: int | None,
    class_names: Sequence[str] | None,
    *,
    where: str,
) -> tuple[ModelSpec, str | None]:
    """Return (the spec with the wanted classes, why the classifier is new or None)."""
    names = None if class_names is None else tuple(class_names)
    wanted = num_classes if num_classes is not None else len(names) if names is not None else None
    count = classes_in(state)
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


def grid_of(architecture: str, arguments: Mapping[str, Any]) -> Grid | None:
    """Return the grid of patches that architecture arguments describe; None where there are no patches."""
    patch_size = arguments.get("patch_size")
    if patch_size is None or patch_size < 1:
        return None
    height, width = as_pair(arguments["image_size"])
    if architecture == "hybrid":
        return hybrid_grid((height, width), patch_size, reduction(arguments["layers"]))
    return height // patch_size, width // patch_size
