"""Configuration text to values: YAML files and `--a.b value` overrides, both read by the same strict rules.

Safe YAML only. Stricter than YAML 1.1 in two ways: a key given twice is a problem, not a silent choice, and
1e-3 is a number (YAML 1.1 wants 1.0e-3 and reads the short form as text).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from isopatch.errors import UsageError
from isopatch.plain_yaml import PlainLoader

MAX_BYTES = 1_000_000  # a configuration is a few kilobytes; anything larger is another file


@dataclass(frozen=True)
class Setting:
    """One value that somebody asked for.

    path: the dotted key's parts. text: the raw text of an override; None for a value from a file.
    origin: where it stands, for messages: "" for an override, "run.yaml line 3" for a file.
    """

    path: tuple[str, ...]
    value: Any
    text: str | None = None
    origin: str = ""

    @property
    def key(self) -> str:
        """The dotted key."""
        return ".".join(self.path)


class ConfigLoader(PlainLoader):
    """The loader of plain data, which also reads 1e-3 as a number."""


ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+|[-+]?\.\d[\d_]*[eE][-+]?\d+"),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """Return the value an override's text means, by YAML's rules; text that is no YAML is taken as it is."""
    try:
        return ConfigLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def parse_size(value: Any) -> Any:
    """Return [rows, columns] for a picture size written as 48x32, 48 for 48x48; anything else as it is."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", value.lower()) if isinstance(value, str) else None
    if found is None:
        return value
    rows, columns = int(found[1]), int(found[2])
    return rows if rows == columns else [rows, columns]


def parse_overrides(overrides: list[tuple[str, str]]) -> tuple[list[Setting], list[str]]:
    """Return the settings that ("a.b", "text") pairs mean; a problem for each empty or repeated one."""
    settings: dict[str, Setting] = {}
    problems = []
    for key, text in overrides:
        if key in settings and settings[key].text != text:
            problems.append(f"{key}: given twice, as {settings[key].text} and as {text}; keep one")
        if not text.strip():
            problems.append(f"{key}: an empty value; leave the option out, or give null for none")
        settings[key] = Setting(tuple(key.split(".")), parse_value(text), text)
    return list(settings.values()), problems


def read_config_file(path: Path) -> tuple[list[Setting], list[str]]:
    """Return the settings in a YAML file, in its order, and a problem for each key given twice.

    Raises UsageError, with file and line, where there is no such file or it is not YAML with keys on top.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise UsageError(f"--config {path}: cannot read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--config {path}: not a text file; give a YAML file") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"--config {path}: more than {MAX_BYTES} bytes; give a YAML file with settings")
    problems: list[str] = []
    try:
        loader = ConfigLoader(text)
        node = loader.get_single_node()
        if node is None:
            return [], []
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{path}:{node.start_mark.line + 1}: give keys and values, such as 'epochs: 30'")
        return list(_settings(loader, node, (), path, problems)), problems
    except UsageError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(_yaml_message(path, error)) from None


def _settings(
    loader: ConfigLoader, node: yaml.MappingNode, prefix: tuple[str, ...], path: Path, problems: list[str]
) -> Iterator[Setting]:
    """Yield the leaves of a mapping; arguments of the model are leaves whatever they hold."""
    seen: dict[Hashable, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node, deep=True)
        if key == "<<" or not isinstance(key, str) or not key:
            problems.append(f"{path}:{line}: {key_node.value!s:.40} is no key; keys are names like epochs")
            continue
        key_path = (*prefix, *key.split("."))
        if key in seen:
            repeated = ".".join(key_path)
            problems.append(f"{path}:{line}: {repeated} was given in line {seen[key]} already; keep one")
            continue
        seen[key] = line
        model_argument = len(key_path) == 2 and key_path[0] == "model"
        if isinstance(value_node, yaml.MappingNode) and not model_argument and value_node.value:
            yield from _settings(loader, value_node, key_path, path, problems)
        else:
            value = loader.construct_object(value_node, deep=True)
            yield Setting(key_path, value, origin=f"{path.name} line {line}")


def _yaml_message(path: Path, error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{path}:{error.problem_mark.line + 1}: not YAML: {error.problem or error.context}"
    return f"{path}: not YAML: {' '.join(str(error).split())}"
