"""From a study.yaml, or the name of a built-in study, to a checked `Study`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from isopatch.errors import UsageError, nearest
from isopatch.recipes.reading import MAX_BYTES, ConfigLoader
from isopatch.recipes.schema import shown
from isopatch.study.check import problems_of
from isopatch.study.schema import MOST_SEEDS, Equal, Hypothesis, Match, Study

SECTIONS: dict[str, type[BaseModel]] = {"equal": Equal, "match": Match, "hypotheses": Hypothesis}
SMALL = "small"
KINDS = {  # pydantic's errors of kind
    "dict_type": "give keys and values",
    "model_type": "give keys and values",
    "list_type": "give a list",
    "string_type": "give a text",
    "string_pattern_mismatch": "a name is made of a-z, 0-9 and -",
}


def builtin_names() -> list[str]:
    """Return the names of the built-in studies."""
    folder = files("isopatch.study") / "builtin"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_study(
    source: str | Path,
    *,
    small: bool = False,
    data: str | None = None,
    seeds: int | None = None,
    equal: float | None = None,
) -> Study:
    """Return a built-in study by its name, or the one in a file or a study's folder.

    small: with what the study's `small` section says, for a try on a small machine. data: the pictures, in
        place of base's. seeds: so many, from 0 on, in place of the study's. equal: so much of what the study
        holds equal. Raises UsageError with one line per problem, all of them.
    """
    document, name, where = _document(source)
    problems: list[str] = []
    reduced = document.pop(SMALL, None)
    if small and not isinstance(reduced, dict):
        raise UsageError(f"{where}: has no section 'small' to take with --small")
    if small:
        document = _merged(document, reduced)
    if data is not None:
        document = _with_data(document, data)
    if seeds is not None:
        document["seeds"] = seeds
    if equal is not None:
        document["equal"] = _with_amount(document.get("equal"), equal)
    document.setdefault("name", name)
    study = _validated(document, problems)
    if study is not None:
        problems += problems_of(study)
    if problems or study is None:
        raise UsageError("\n".join(dict.fromkeys(f"{where}: {problem}" for problem in problems)))
    return study


def dump_study(study: Study) -> str:
    """Return the study as YAML that `load_study` reads back."""
    document = study.model_dump(mode="json", exclude_defaults=True)
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text


def _document(source: str | Path) -> tuple[dict[str, Any], str, str]:
    """Return (what the YAML says, the study's default name, what to call it in messages)."""
    path = Path(source)
    path = path / "study.yaml" if path.is_dir() else path
    known = builtin_names()
    if str(source) in known and not path.is_file():
        text = (files("isopatch.study") / "builtin" / f"{source}.yaml").read_text(encoding="utf-8")
        return _parsed(text, str(source)), str(source), str(source)
    if not path.is_file():
        hint = nearest(str(source), known)
        raise UsageError(
            f"{source}: neither a file nor a built-in study{hint}; there are {', '.join(known) or 'none'}"
        )
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_BYTES:
            raise UsageError(f"{path}: more than {MAX_BYTES} bytes; give a study.yaml")
        text = raw.decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file; give a study.yaml") from None
    stem = path.parent.resolve().name if path.name == "study.yaml" else path.stem
    return _parsed(text, str(path)), "".join(c if c.isalnum() else "-" for c in stem.lower()), path.name


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        loader = ConfigLoader(text)
        node = loader.get_single_node()
        _refuse_repeats(loader, node, where)
        document = {} if node is None else loader.construct_document(node)
    except UsageError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{where}{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{where}: give keys and values, such as 'question: ...'")
    return {str(key): value for key, value in document.items()}


def _refuse_repeats(loader: ConfigLoader, node: Any, where: str) -> None:
    """YAML takes the last of two equal keys without a word."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeats(loader, item, where)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[Hashable, int] = {}
    for key_node, value_node in node.value:
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if not isinstance(key, Hashable) or key == "<<":
            raise UsageError(f"{where}:{line}: {key_node.value!s:.40} is no key")
        if key in seen:
            raise UsageError(f"{where}:{line}: {key} was given in line {seen[key]} already; keep one")
        seen[key] = line
        _refuse_repeats(loader, value_node, where)


def _merged(document: dict[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """Put the `small` section over the study: base, factors and before by name, everything else whole."""
    result = dict(document)
    for key, value in small.items():
        former = result.get(key)
        if key not in ("base", "factors", "before") or not (
            isinstance(former, dict) and isinstance(value, dict)
        ):
            result[key] = value
        elif key == "before":
            result[key] = {**former, **{name: _over(former.get(name), value[name]) for name in value}}
        else:
            result[key] = {**former, **value}
    return result


def _over(former: Any, settings: Any) -> Any:
    """A run under `before` with the small form's settings; what is no mapping is left to be refused."""
    both = isinstance(former, dict) and isinstance(settings, dict)
    return {**former, **settings} if both else settings


def _with_data(document: dict[str, Any], data: str) -> dict[str, Any]:
    given = document.get("base", {})
    if not isinstance(given, dict):  # left to be refused
        return document
    base = dict(given)
    if isinstance(base.get("data"), dict):
        return {**document, "base": {**base, "data": {**base["data"], "source": data}}}
    base.pop("data.source", None)
    return {**document, "base": {**base, "data": data}}


def _with_amount(held: Any, amount: float) -> Any:
    """The same thing held equal at another amount; what is no declaration is left to be refused."""
    if not isinstance(held, dict) or len(held) != 1:
        return held
    return dict.fromkeys(held, int(amount) if float(amount).is_integer() else amount)


def _validated(document: dict[str, Any], problems: list[str]) -> Study | None:
    """Check every key's own value. A section that is wrong is noted and left out, so that the rest is checked
    too; None where what is left is no study."""
    rest = dict(document)
    for _ in range(3):
        try:
            return Study.model_validate(rest)
        except ValidationError as failure:
            wrong = set()
            for error in failure.errors():
                problems.append(_in_words(error))
                wrong.add(str(error["loc"][0]) if error["loc"] else "")
            needed = {"name": "study", "question": "?", "equal": {"epochs": 1}}
            rest = {key: value for key, value in rest.items() if key not in wrong}
            rest = {**{key: value for key, value in needed.items() if key in wrong}, **rest}
    return None


def _place(parts: Sequence[str | int]) -> str:
    """Where a value stands: `match.solve`; an entry of a list counts from 1: `hypotheses 1: expect`."""
    place = ""
    for part in parts:
        join = "" if not place else ": " if place[-1].isdigit() else "."
        place += f" {part + 1}" if isinstance(part, int) else f"{join}{part}"
    return place


def _in_words(error: Any) -> str:
    """One of pydantic's errors as one line."""
    path = [str(part) for part in error["loc"]]
    key, kind, context = _place(error["loc"]), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        node = Study if len(path) == 1 else SECTIONS.get(path[0], Study)
        known = [*node.model_fields, SMALL] if node is Study else list(node.model_fields)
        return f"{key}: unknown key{nearest(path[-1], known)}"
    if kind == "missing":
        more = "; say what is held equal, as 'equal: {epochs: 10}'" if key == "equal" else ""
        return f"{key}: is missing{more}"
    if path[-1] == "[key]":
        return f"{_place(error['loc'][:-2])}: {path[-2]} is no name; put it in quotes if it is meant"
    if path[0] == "factors" and len(path) == 1:
        return f"factors: {shown(error['input'])}: give each with its levels, as 'kernel_size: [3, 5]'"
    if path[0] == "factors" and kind in ("list_type", "dict_type"):
        return f"factors.{path[1]}: give a list of levels, or named levels, each a mapping of settings"
    if path[0] == "seeds":
        return f"seeds: give how many, from 1 up to {MOST_SEEDS:,}, or a list of whole numbers"
    if kind == "value_error":
        return f"{key}: {context['error']}"
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{key}: {shown(error['input'])} is not one of {', '.join(choices)}" + nearest(
            str(error["input"]), choices
        )
    wanted = KINDS.get(kind, f"{error['msg'][:1].lower()}{error['msg'][1:]}")
    return f"{key}: {shown(error['input'])}: {wanted}"
