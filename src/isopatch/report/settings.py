"""Configurations as flat tables: what differs from the defaults, what differs between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isopatch.report.wording import plain


@dataclass(frozen=True)
class Setting:
    """One configuration value. changed: it differs from the default, or has none."""

    key: str
    value: str
    default: str
    changed: bool


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"optimizer.lr": 0.001, ...} for nested mappings; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, name + "."))
        else:
            flat[name] = value
    return flat


def default_settings() -> dict[str, Any]:
    """Return the defaults of a run configuration, flat; it has none for the model."""
    from isopatch.training.config import ModelNode, RunConfig

    document = RunConfig(model=ModelNode(name="any")).model_dump(mode="json")
    del document["model"]
    return flatten(document)


def compare_with_defaults(config: Mapping[str, Any]) -> list[Setting]:
    """Return every setting of a run in the configuration's order."""
    defaults = default_settings()
    return [
        Setting(
            key,
            plain(value),
            plain(defaults[key]) if key in defaults else "",
            key not in defaults or not _same(value, defaults[key]),
        )
        for key, value in flatten(config).items()
    ]


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return (key, value per run) for the settings that are not the same in all runs."""
    flats = [_with_an_effect(flatten(config)) for config in configs]
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    return [
        (key, [plain(flat[key]) if key in flat else "not set" for flat in flats])
        for key in keys
        if any(key not in flat or not _same(flat[key], flats[0].get(key)) for flat in flats)
    ]


def _with_an_effect(flat: dict[str, Any]) -> dict[str, Any]:
    """Without what only a teacher gives a meaning, where there is none."""
    if flat.get("distill.teacher"):
        return flat
    kept = ("distill.teacher", "distill.views")
    return {key: value for key, value in flat.items() if not key.startswith("distill.") or key in kept}


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return list(first) == list(second)
    return bool(first == second)
