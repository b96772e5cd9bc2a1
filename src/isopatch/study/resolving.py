"""From a cell of a study to the configuration of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from isopatch.errors import UsageError
from isopatch.models.spec import resolve as model_entry
from isopatch.recipes.resolve import resolve
from isopatch.study.check import inherited
from isopatch.study.references import REFERENCE, referred
from isopatch.study.schema import Levels, Settings, Study
from isopatch.study.shortcuts import KEYS, expanded, flat
from isopatch.training.config import RunConfig


class Template(NamedTuple):
    """The configuration of a cell's runs before their seeds and length. settings: what was said, flat."""

    config: RunConfig
    settings: Settings

    def seeded(self, seed: int) -> RunConfig:
        """The configuration at a seed.

        Runs are paired: at one seed every cell draws its initial weights, its order, its augmentation, its
        mixing and its part of the data from the same number, so that cells see the same pictures in the same
        order wherever they have the same pictures and batches. What the study itself fixes stays fixed.
        """
        changes: dict[str, Any] = {"seed": seed}
        if "data_seed" not in self.settings:
            changes["data_seed"] = seed
        if "data.fraction_seed" not in self.settings and self.config.data.fraction < 1:
            changes["data"] = self.config.data.model_copy(update={"fraction_seed": seed})
        return self.config.model_copy(update=changes)


def cell_template(
    study: Study,
    cell: Levels,
    before: Mapping[str, Template],
    *,
    threads: int | None = None,
    solved: Mapping[str, Any] | None = None,
) -> Template:
    """Resolve a cell. solved: what matching the parameters found. threads: where the study says none.

    Raises UsageError with one line per problem.
    """
    levels = [flat(study.factor_levels[factor][name], [], factor) for factor, name in cell.items()]
    machine = {} if threads is None else {"threads": threads}
    layers = [machine, flat(study.base, [], "base"), *levels, dict(solved or {})]
    return _template(expanded(layers), before, study.equal.kind, study.equal.amount)


def before_template(
    study: Study, name: str, before: Mapping[str, Template], *, threads: int | None = None
) -> Template:
    """Resolve a `before` run; its own settings say how long it is."""
    machine = {} if threads is None else {"threads": threads}
    return _template(expanded([machine, inherited(study, name)[0]]), before, None, 0)


def reference_order(study: Study) -> list[str]:
    """Return the names of `before` runs, each after those it refers to."""
    order: list[str] = []
    while len(order) < len(study.before):
        order += [
            name
            for name, settings in study.before.items()
            if name not in order and referred(settings) <= set(order)
        ]
    return order


def solved_key(study: Study) -> str:
    """Return the configuration's key that matching solves for."""
    assert study.match is not None
    return KEYS.get(study.match.solve, study.match.solve)


def _template(
    settings: Settings, before: Mapping[str, Template], length: str | None, amount: float
) -> Template:
    # Null takes back what base said of the model: its published value, or that of the weights, holds again.
    values = {
        key: value
        for key, value in settings.items()
        if value is not None or not (key.startswith("model.") or key == "recipe")
    }
    weights = values.pop("weights", None)
    name = REFERENCE.fullmatch(str(weights)) if weights is not None else None
    if name is not None:
        values = _from_before(values, before[name[1]].config)
    elif weights is not None:
        values["weights"] = weights
    if "model.name" not in values and "weights" not in values:
        raise UsageError("model: none is named; a study says which (isopatch models list)")
    if length == "epochs":
        values["epochs"] = int(amount)
    config = resolve(values=values)
    if name is not None:
        config = config.model_copy(update={"weights": weights})
    return Template(config, settings)


def _from_before(values: Settings, former: RunConfig) -> Settings:
    """Start from a run's weights as `--weights` does: its model, and the recipe for fine-tuning."""
    wanted = values.get("model.name")
    if wanted is not None and model_entry(str(wanted)).name != model_entry(former.model.name).name:
        raise UsageError(f"model.name: {wanted}, but its weights are of {former.model.name}; leave it out")
    held = {f"model.{key}": value for key, value in former.model.arguments.items()}
    return {"recipe": "finetune", "model.name": former.model.name, **held, **values}
