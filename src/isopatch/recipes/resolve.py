"""From names, a file and overrides to one checked configuration: default choice < recipe < file < overrides.

Every unknown key and bad value is reported at once, one line each, in two stages that give one list: the run
configuration, then the model's arguments against its architecture function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from isopatch.errors import UsageError
from isopatch.models import spec
from isopatch.recipes.default import DIGITS, DefaultChoice, choose
from isopatch.recipes.fit import Notes
from isopatch.recipes.from_weights import model_of_weights, stored_model
from isopatch.recipes.reading import Setting, parse_overrides, parse_size, read_config_file
from isopatch.recipes.schema import (
    annotation_of,
    holds_text,
    in_words,
    is_group,
    shown,
    unknown_key,
    wrong_kind,
)
from isopatch.recipes.table import find_recipe
from isopatch.training.config import DataConfig, ModelNode, RunConfig

Chooser = Callable[[DataConfig], DefaultChoice]


def resolve(
    *,
    model: str | None = None,
    recipe: str | None = None,
    data: str | None = None,
    config_file: Path | None = None,
    overrides: Iterable[tuple[str, str]] = (),
    values: Mapping[str, Any] | None = None,
    choose_for: Chooser | None = None,
    notes: Notes | None = None,
    started_with: RunConfig | None = None,
) -> RunConfig:
    """Return the configuration that the names, the YAML file and the ("a.b", "value") overrides ask for.

    values: dotted keys and their values, as a file would give them.
    started_with: the configuration of a run to be continued: what is said replaces its values, and neither a
        recipe nor a default choice is worked out again.
    choose_for: called with the data's configuration when nobody named a model; None knows `digits` alone.
    notes: receives sentences for the user (what a recipe left out, the reason of a default choice).
    Raises UsageError with one line per problem.
    """
    notes = [] if notes is None else notes
    given, problems = parse_overrides(list(overrides))
    named = [("model.name", model), ("recipe", recipe), ("data.source", data)]
    given += [Setting(tuple(key.split(".")), value, value) for key, value in named if value is not None]
    given += [Setting(tuple(key.split(".")), value) for key, value in (values or {}).items()]
    from_file: list[Setting] = []
    if config_file is not None:
        from_file, repeated = read_config_file(config_file)
        problems += repeated
        problems += _two_recipes(from_file, recipe)
    settings = _known(from_file + given, problems)
    wanted = {setting.path: setting.value for setting in settings}

    base, defaults = (started_with, []) if started_with else _base(wanted, choose_for, notes, problems)
    tree = base.model_dump()
    for setting in defaults + settings:
        _put(tree, setting.path, setting.value)
    _put_token(tree, wanted)
    tree["recipe"] = _full_name(tree["recipe"], base, problems)
    origins = {setting.key: setting.origin for setting in settings if setting.origin}
    if ("epochs",) in {s.path for s in given if s.text is not None} and tree["steps"] is not None:
        problems.append(
            f"epochs: {shown(wanted.get(('epochs',)))} has no effect beside steps {shown(tree['steps'])}; "
            f"keep one (--steps null)"
        )
    config = _validate(tree, base.model_dump(), problems)
    problems += _argument_problems(ModelNode.model_validate(tree["model"]))
    if problems or config is None:
        raise UsageError("\n".join(dict.fromkeys(_located(problem, origins) for problem in problems)))
    if config.recipe is not None and find_recipe(config.recipe).fine_tunes and config.weights is None:
        notes.append(f"recipe {config.recipe} is for pretrained weights, and no --weights were given")
    return config


def dump_config(config: RunConfig) -> str:
    """Return the configuration as YAML that `resolve` reads back to the same configuration."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _put_token(tree: dict[str, Any], wanted: dict[tuple[str, ...], Any]) -> None:
    """Let `distill.token` decide whether a DeiT has the token, unless somebody asked for model.distilled.

    What the weights to start from have decides nothing: they get a fresh token.
    """
    token, model = tree["distill"]["token"], tree["model"]
    known = model.get("name") in spec.MODELS or model.get("name") in spec.ALIASES
    if not isinstance(token, bool) or not known or ("model", "distilled") in wanted:
        return
    if spec.resolve(model["name"]).architecture == "deit":
        model["distilled"] = token


def _two_recipes(from_file: list[Setting], recipe: str | None) -> list[str]:
    """Refuse a flag that could do nothing: a file that names a recipe usually holds all its values too."""
    named = [setting for setting in from_file if setting.path == ("recipe",)]
    if recipe is None or not named or named[0].value in (None, recipe):
        return []
    return [f"recipe: --recipe {recipe}, but {named[0].origin} says {shown(named[0].value)}; keep one"]


def _known(settings: list[Setting], problems: list[str]) -> list[Setting]:
    """Return the settings whose keys exist and whose values are of a possible kind; note the others."""
    good = []
    for setting in settings:
        path, value = setting.path, setting.value
        if path[0] == "model" and len(path) == 2 and path[1] != "name":
            # Checked against the architecture function, in the second stage.
            good.append(replace(setting, value=parse_size(value)) if path[1] == "image_size" else setting)
            continue
        annotation = annotation_of(path) if path != ("model", "name") else str
        if annotation is None:
            if not is_group(path):
                problems.append(_with_origin(unknown_key(path), setting.origin))
            elif value not in (None, {}):  # an empty group in a file says nothing
                hint = "name" if path == ("model",) else "<key>"
                problem = f"{setting.key}: is a group of keys, not {shown(value)}; set {setting.key}.{hint}"
                problems.append(_with_origin(problem, setting.origin))
            continue
        if setting.text is not None and value is not None and holds_text(annotation):
            value = setting.text
        if path == ("model", "name") and value is not None:
            value = str(value)  # a number is no name of a model, and is refused as one that is unknown
        problem_of_kind = None if path == ("model", "name") else wrong_kind(path, value)
        if problem_of_kind is not None:
            problems.append(_with_origin(problem_of_kind, setting.origin))
            continue
        good.append(Setting(path, value, setting.text, setting.origin))
    return good


def _base(
    wanted: dict[tuple[str, ...], Any], choose_for: Chooser | None, notes: Notes, problems: list[str]
) -> tuple[RunConfig, list[Setting]]:
    """Return the recipe's configuration and the default choice's settings."""
    source = wanted.get(("data", "source"), DataConfig().source)
    name, recipe = wanted.get(("model", "name")), wanted.get(("recipe",))
    arguments = {path[1]: value for path, value in wanted.items() if path[0] == "model" and path[1] != "name"}
    defaults: list[Setting] = []
    weights = wanted.get(("weights",))
    held = None if weights is None else _held(str(weights), name, problems)
    if held is not None:
        name, arguments = held.name, {**held.arguments, **arguments}
        defaults = [Setting(("model", key), value) for key, value in held.arguments.items()]
        defaults.append(Setting(("model", "name"), name))
    elif name is None:
        choice = _choose(source, wanted, choose_for, problems)
        name, arguments = choice.model, {**choice.arguments, **arguments}
        notes.append(choice.reason)
        defaults = [Setting(("model", key), value) for key, value in choice.arguments.items()]
        if recipe is None:
            recipe = choice.recipe
            defaults += [Setting(tuple(key.split(".")), value) for key, value in choice.overrides.items()]
    node = ModelNode.model_validate({"name": str(name), **arguments})
    wrong = {problem.split(":", 1)[0] for problem in _argument_problems(node)}
    if "model.name" in wrong:  # reported with the rest; no recipe fits a model that is not
        return RunConfig(model=node), defaults
    fitting = {key: value for key, value in arguments.items() if f"model.{key}" not in wrong}
    if recipe is None:
        recipe = "small" if weights is None else "finetune"
    try:
        entry = find_recipe(str(recipe))
    except UsageError as error:
        problems.append(f"recipe: {error}")
        return RunConfig(model=node), defaults
    return entry.build(ModelNode.model_validate({"name": node.name, **fitting}), str(source), notes), defaults


def _held(weights: str, name: Any, problems: list[str]) -> ModelNode | None:
    """Return the model that the weights say they hold; None where a name has to say it."""
    try:
        if name is None:
            return model_of_weights(weights)
        held = stored_model(weights)
        if held is not None and spec.resolve(str(name)).name != spec.resolve(held.name).name:
            raise UsageError(f"model.name: {name}, but {weights} holds {held.name}; leave the name out")
    except UsageError as error:
        raise UsageError("\n".join([*problems, str(error)])) from None
    return held


def _full_name(recipe: str | None, base: RunConfig, problems: list[str]) -> str | None:
    """Return the name a recipe writes into its configuration: vit-augreg's is vit-augreg-medium1."""
    if recipe in (None, base.recipe):
        return base.recipe
    try:
        return find_recipe(str(recipe)).build(base.model, base.data.source, []).recipe
    except UsageError as error:
        problems.append(f"recipe: {error}")
        return base.recipe


def _argument_problems(model: ModelNode) -> list[str]:
    """The second stage: the model's name and arguments against the architecture function."""
    try:
        problems = spec.check_arguments(model.name, model.arguments)
    except UsageError as error:
        return [f"model.name: {error}"]
    channels = model.arguments.get("in_channels", 3)
    if channels != 3:
        problems.append(f"model.in_channels: {channels}, but every picture is decoded to 3 channels (RGB)")
    return problems


def _choose(
    source: Any, wanted: dict[tuple[str, ...], Any], choose_for: Chooser | None, problems: list[str]
) -> DefaultChoice:
    """Return the default choice for the data; on failure that for digits, with the problem noted."""
    fallback = choose(DIGITS, cores=1)
    if choose_for is None:
        if source != "digits":
            problems.append(f"model: none is named; give one for {source} (isopatch models list)")
        return fallback
    tree: dict[str, Any] = {}
    for path, value in wanted.items():
        if path[0] == "data" and len(path) == 2:
            tree[path[1]] = value
    try:
        return choose_for(DataConfig.model_validate(tree))
    except ValidationError:
        return fallback  # reported with the rest of the configuration
    except UsageError as error:
        problems.append(str(error))
        return fallback


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        tree = tree[part]
    tree[path[-1]] = value


def _validate(tree: dict[str, Any], base: dict[str, Any], problems: list[str]) -> RunConfig | None:
    """Check the run configuration. What is wrong is noted, replaced by the base's value, and the rest checked
    again, so that rules over several keys are reported in the same list."""
    candidate = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for _ in range(5):
        try:
            config = RunConfig.model_validate(candidate)
        except ValidationError as failure:
            for error in failure.errors():
                problems.append(in_words(error))
                path = tuple(str(part) for part in error["loc"] if not isinstance(part, int))
                if not path:
                    return None  # a rule over the whole: nothing to put back
                original: Any = base
                for part in path[:-1]:
                    original = original[part]
                _put(candidate, path, original[path[-1]])
        else:
            return config
    return None


def _with_origin(problem: str, origin: str) -> str:
    return f"{problem} ({origin})" if origin else problem


def _located(problem: str, origins: dict[str, str]) -> str:
    """Add file and line to a problem whose key stands in the file."""
    key = problem.split(":", 1)[0]
    origin = origins.get(key, "")
    return problem if not origin or origin in problem else _with_origin(problem, origin)
