"""What model some weights are: the spec saved with them, or the one their name and configuration give."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from isopatch.errors import IsopatchError, UsageError
from isopatch.image.names import printable
from isopatch.models.architectures import architecture_module
from isopatch.models.entry import ModelEntry
from isopatch.models.external.names import is_external
from isopatch.models.foreign import classes_in, entry_for, input_in, require_same_function, to_native_names
from isopatch.models.formats import timm_config, transformers
from isopatch.models.formats.keymap import State
from isopatch.models.locate import Found
from isopatch.models.native import read_config, read_spec
from isopatch.models.spec import ModelSpec, make_spec, resolve
from isopatch.nn.layout import Grid
from isopatch.nn.resnet_stem import hybrid_grid, reduction
from isopatch.nn.stem import as_pair

log = logging.getLogger("isopatch")


class Known(NamedTuple):
    """The weights in our names, the spec to build for them, and the grid they were trained at if known."""

    state: State
    spec: ModelSpec
    grid: Grid | None


def known_by(found: Found, state: State, name: str | None, asked: dict[str, Any]) -> Known:
    """Return what is known of weights; asked: arguments that are to differ from theirs."""
    if found.folder is None:
        return _foreign(found, state, name, asked)
    return _native(found.folder, state, name, asked)


def _native(folder: Path, state: State, name: str | None, asked: dict[str, Any]) -> Known:
    """Our own weights: the stored spec with overrides; a name may only confirm it."""
    spec = read_spec(folder)
    if name is not None and resolve(name).name != spec.name:
        raise UsageError(f"{folder} holds {spec.name}, not {resolve(name).name}: leave the name out")
    grid = grid_of(spec.architecture, spec.arguments)
    if not asked:
        return Known(state, spec, grid)
    changed = make_spec(spec.name, {**spec.arguments, **asked}, classes=spec.classes)
    resized = replace(spec.input, height=changed.input.height, width=changed.input.width)
    return Known(state, replace(changed, input=resized), grid)


def _foreign(found: Found, state: State, name: str | None, asked: dict[str, Any]) -> Known:
    """Other people's weights: the spec is what their name and config.json give."""
    if transformers.is_transformers(found.config):
        return _transformers(found, state, name, asked)
    if name is not None and found.name is not None and resolve(name).name != found.name:
        raise UsageError(f"{found.name} and {name} are two models: keep one")
    with _translating(found):
        entry = entry_for(name or found.name, found.config, found.weights)
        overrides, size = input_in(found.config)
        told = _arguments_told(found, entry, size, named=name is not None)
        classes = timm_config.classes_told(found.config)
    given = {**told, **asked}
    theirs = state
    if is_external(entry.name):
        arguments = {**entry.arguments, **given}
        state = architecture_module(entry.architecture).native_state(
            state, arguments, where=str(found.weights)
        )
    else:
        state = to_native_names(state, entry.architecture)
    count = classes_in(state)
    if count is not None:
        given["num_classes"] = count
    if classes is not None and len(classes) != count:
        classes = None
    spec = make_spec(entry.name, given, input_overrides=overrides, classes=classes)
    require_same_function(theirs, spec, where=str(found.weights))
    if entry.architecture == "convmixer" and found.config is None:
        log.info(
            "%s: does not say its activation; %s has %s (of the authors' weights 768/32 needs relu, the "
            "others gelu)",
            found.weights,
            entry.name,
            spec.arguments["activation"],
        )
    trained = told.get("image_size", size)
    before = {**spec.arguments, **entry.arguments, **told, "image_size": trained}  # not the patches asked for
    return Known(state, spec, None if trained is None else grid_of(spec.architecture, before))


def _arguments_told(
    found: Found, entry: ModelEntry, size: tuple[int, int] | None, *, named: bool
) -> dict[str, Any]:
    """Arguments that timm's config.json gives the model; none where it describes another, or no model.

    size: the picture size of its `pretrained_cfg`, which timm builds for unless `model_args` say another.
    named: somebody gave the model's name, which then also stands in for what cannot be translated.
    """
    config = found.config or {}
    external = is_external(entry.name)
    if external and config.get("architecture") != entry.arguments["model"].partition(".")[0]:
        return {}
    if not external and timm_config.entry_told(config) is None:
        return {}
    try:
        told: dict[str, Any] = (
            architecture_module(entry.architecture).arguments_told(config)
            if external
            else timm_config.arguments_told(config)
        )
    except UsageError as error:
        if not named:
            raise
        log.warning("%s: %s (not followed: %s is built as it was named)", found.weights, error, entry.name)
        return {}
    if size is not None and "img_size" not in (config.get("model_args") or {}):
        told["image_size"] = size
    return told


@contextlib.contextmanager
def _translating(found: Found) -> Iterator[None]:
    """Say in one line that a configuration's values have not the kinds they should have."""
    try:
        yield
    except (UsageError, IsopatchError):
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise IsopatchError(
            f"{found.weights}: the configuration beside it is damaged, a value is missing or of another kind "
            f"({type(error).__name__}: {error})"
        ) from None


def _transformers(found: Found, state: State, name: str | None, asked: dict[str, Any]) -> Known:
    """A transformers folder, whose configuration says everything; a name may only confirm it."""
    assert found.config is not None
    beside = found.weights.parent / "preprocessor_config.json"
    preprocessor = read_config(beside) if beside.is_file() else None
    with _translating(found):
        told = transformers.told_by(found.config, preprocessor, where=str(found.weights))
    if name is not None and resolve(name).architecture != told.name:
        raise UsageError(
            f"{found.weights}: holds a {told.name}, not {resolve(name).name}: leave the name out"
        )
    state = to_native_names(state, told.name)
    # Two classes without names are transformers' default, and its configuration leaves defaults out.
    count = len(told.classes or ()) or classes_in(state)
    own = {**told.arguments, **({} if count is None else {"num_classes": count})}
    spec = make_spec(told.name, {**own, **asked}, input_overrides=told.input, classes=told.classes)
    return Known(state, spec, grid_of(spec.architecture, {**spec.arguments, **told.arguments}))


def wanted_classes(
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


def grid_of(architecture: str, arguments: Mapping[str, Any]) -> Grid | None:
    """Return the grid of patches that architecture arguments describe; None where there are no patches."""
    patch_size = arguments.get("patch_size")
    if patch_size is None or patch_size < 1:
        return None
    height, width = as_pair(arguments["image_size"])
    if architecture == "hybrid":
        return hybrid_grid((height, width), patch_size, reduction(arguments["layers"]))
    return height // patch_size, width // patch_size
