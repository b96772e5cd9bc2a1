"""Open trained weights of any kind: our runs and checkpoints, timm's and the authors' files, hub ids."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.adapt import fresh_distillation, fresh_heads, resized_positions
from isopatch.models.external.wrapper import External
from isopatch.models.formats.files import read_state
from isopatch.models.formats.keymap import State
from isopatch.models.held import grid_of, known_by, wanted_classes
from isopatch.models.locate import Found, averaged, locate
from isopatch.models.matching import load_partial, load_strict, require_common
from isopatch.models.patch_resize import resized_patches
from isopatch.models.resize import Change, ResizeMode, require_mode
from isopatch.models.spec import ModelSpec, build
from isopatch.models.tally import Tally, identities, reshaped_in
from isopatch.models.token_resize import resized_token_maps, widened
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid

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


def load_for_pictures(
    source: str | Path, name: str | None = None, *, arguments: Mapping[str, Any] | None = None
) -> Classifier:
    """Return what `load` does, to be shown pictures: those are decoded to 3 channels.

    Raises UsageError for a model of another number of channels, and what `load` raises.
    """
    model = load(source, name=name, arguments=arguments)
    require_rgb(model.spec, source)
    return model


def require_rgb(spec: ModelSpec, source: str | Path) -> None:
    """Raise UsageError where a model takes another number of channels than pictures are decoded to."""
    channels = spec.arguments.get("in_channels", 3)
    if channels != 3:
        raise UsageError(
            f"{source} takes pictures of {channels} channel(s) (in_channels {channels}), but every picture "
            f"is decoded to 3 (RGB): give a model of in_channels 3, or call this one from Python"
        )


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
    return fit(
        read_weights(source, ema=ema),
        name,
        num_classes,
        image_size=image_size,
        arguments=arguments,
        class_names=class_names,
        position_resize=position_resize,
        partial=partial,
        grid=grid,
    )


class Weights(NamedTuple):
    """Weights read into memory, in the names of their file."""

    found: Found
    state: State


def read_weights(source: str | Path, *, ema: bool = False) -> Weights:
    """Find and read weights, to be built into models by `fit`, at one size or several."""
    found = locate(source)
    if found.folder is not None and ema:
        found = averaged(found)
    state, notes = read_state(found.weights, ema=ema and found.folder is None)
    for note in notes:
        log.info("%s: %s", found.weights, note)
    return Weights(found, state)


def fit(
    weights: Weights,
    name: str | None = None,
    num_classes: int | None = None,
    *,
    image_size: ImageSize | None = None,
    arguments: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    position_resize: ResizeMode = "deit",
    partial: bool = False,
    grid: Grid | None = None,
    changes: list[Change] | None = None,
) -> Opened:
    """Build the model of weights that were read; everything as `load` does. changes: what was resized."""
    if num_classes is not None and class_names is not None and num_classes != len(class_names):
        raise UsageError(f"num_classes {num_classes} contradicts the {len(class_names)} class_names")
    found, raw = weights
    asked = dict(arguments or {})
    if image_size is not None:
        asked["image_size"] = image_size if isinstance(image_size, int) else tuple(image_size)
    where = str(found.weights)
    known = known_by(found, raw, name, asked)
    held, trained = known.state, known.grid or grid
    count = known.spec.arguments["num_classes"]
    if num_classes is None and class_names is None and asked.get("num_classes", count) != count:
        raise UsageError(
            f"{where}: its classifier has {count} classes, not {asked['num_classes']}: leave the argument "
            f"num_classes out"
        )
    spec, new_classifier = wanted_classes(
        known.spec, held, num_classes, class_names, where=where, partial=partial
    )
    model = build(widened(spec, held, trained, grid_of(spec.architecture, spec.arguments)))
    require_common(model, held, where=where, name=spec.name)  # before new parts are put beside the file's
    state = held if new_classifier is None else fresh_heads(held, model, reason=new_classifier)
    if partial and "prefix.dist_token" in held:
        if "prefix.dist_token" not in model.state_dict():  # its position is in the table: no table of places
            state = {key: tensor for key, tensor in state.items() if key != "position.table"}
    else:
        state = fresh_distillation(state, model, where=where, name=spec.name)
    fresh = {key for key, tensor in state.items() if key not in held or _is_new_head(key, tensor, held)}
    state = _resized(
        state, model, trained, where, position_resize, "patch_size" in asked, changes, partial=partial
    )
    if partial:
        fitting = {key: tensor for key, tensor in state.items() if key not in fresh}
        loaded = load_partial(model, fitting, where=where, name=spec.name)
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


def _resized(
    state: State,
    model: Classifier,
    trained: Grid | None,
    where: str,
    mode: ResizeMode,
    patch_asked: bool,
    changes: list[Change] | None,
    *,
    partial: bool,
) -> State:
    """Patch kernels, token maps and positions for the model's grid. trained: the grid of the weights.

    partial: leave what has no definition at another size as it is, told in the log; it will not fit.
    """
    require_mode(mode)
    changes = [] if changes is None else changes
    count = len(changes)

    def patches(state: State) -> State:
        return resized_patches(state, model, where=where, asked=patch_asked, changes=changes)

    def token_maps(state: State) -> State:
        same_patch = not any(change.what == "patch kernels" for change in changes[count:])
        return resized_token_maps(state, model, trained, where=where, same_patch=same_patch, changes=changes)

    def positions(state: State) -> State:
        return resized_positions(state, model, trained, where=where, mode=mode, changes=changes)

    for step in (patches, token_maps, positions):
        try:
            state = step(state)
        except IsopatchError as error:
            if not partial:
                raise
            log.warning("%s (partial: left as it is)", error)
    return model.refit(state) if isinstance(model, External) else state


def _is_new_head(key: str, tensor: Tensor, held: State) -> bool:
    return key.startswith("heads.") and tensor is not held[key]
