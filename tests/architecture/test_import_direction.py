"""Each package imports only what its row of the house's plan allows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "isopatch"

# These import nothing of the house but errors; the version is a constant of the package itself.
ANYWHERE = ("errors", "files", "plain_yaml", "__version__")
# room -> what it may import; "a.b" is one module of a room.
TABLE: dict[str, tuple[str, ...]] = {
    "errors": (),
    "files": (),
    "plain_yaml": (),
    "nn": (),
    "image": (),
    "models": ("nn", "image"),
    "data": ("image",),
    "training": ("models", "nn.skeleton", "nn.classifier", "data", "image", "kernels"),
    # Beside the run's configuration: the second stage of its check, against the architecture functions.
    "recipes": (
        "training.config",
        "training.distill_config",
        "models.spec",
        "models.load",
        "models.locate",
        "models.native",
    ),
    "report": ("training.config",),  # pydantic alone: the page says which settings are not the default
    "study": ("training", "recipes", "models", "report", "data"),
    "explain": ("models", "nn", "image", "data", "report"),
    # Features and what is fitted to them: numbers in, rows out. The command opens model and data.
    "probes": ("nn.classifier", "image", "data", "training.evaluate", "report.intervals"),
    "robustness": (
        "nn.classifier",
        "image",
        "data",
        "training.evaluate",
        "training.metrics",
        "report.intervals",
    ),
    "export": ("models", "image"),
    # Formats live in models; this is what surrounds a conversion: place, peers' code, comparison.
    "conversion": ("models", "nn.classifier", "nn.skeleton", "nn.norms", "image", "data"),
    "predict": (
        "models",
        "image",
        "data.sources",
        "data.pack_index",
        "training.evaluate",
        "training.metrics",
        "kernels",
    ),
    "predict_file": ("predict", "predict_rows", "image"),
    "predict_rows": ("predict", "image"),
    "serve": ("predict", "image", "explain"),
    "bench": (
        "models",
        "data",
        "image.contract",
        "image.decode",
        "kernels",
        "nn.classifier",
        "training.hardware",
    ),
    "kernels": ("nn", "models"),
    "doctor": ("training.hardware", "image.native", "kernels"),
}
COMMANDS = (
    "api",
    "evaluation",
    "eval_sizes",
    "eval_probes",
    "eval_robustness",
    "eval_labels",
    "explaining",
    "demo",
)
EVERYTHING = ("cli", *COMMANDS, "__init__", "__main__")


def imported(tree: ast.Module, module: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module path without "isopatch.") for every import of the house, those in functions too."""
    package = module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [".".join([*base, *(node.module or "").split(".")]).rstrip(".")]
        elif isinstance(node, ast.ImportFrom):
            base_name = node.module or ""
            # `from isopatch import api` and `from isopatch.training import config` import modules
            names = [f"{base_name}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "isopatch" and "." in name:
                yield node.lineno, name.removeprefix("isopatch.")


def violations(text: str, module: str) -> list[str]:
    """Return "line: what" for each import that the room of `module` may not make."""
    room = module.split(".")[1]
    if room in EVERYTHING:
        forbidden = ("cli",) if room in COMMANDS else ()
        return [
            f"{module}:{line}: {name}"
            for line, name in imported(ast.parse(text), module)
            if name.split(".")[0] in forbidden
        ]
    assert room in TABLE, f"{module}: this room is not in the house's table"
    allowed = (room, *TABLE[room], *ANYWHERE)
    return [
        f"{module}:{line}: {name}"
        for line, name in imported(ast.parse(text), module)
        if not any(name == door or name.startswith(door + ".") for door in allowed)
    ]


def module_of(path: Path) -> str:
    parts = ["isopatch", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts)


def test_every_import_is_allowed_by_the_table() -> None:
    found = [
        line
        for path in sorted(SOURCE.rglob("*.py"))
        for line in violations(path.read_text(encoding="utf-8"), module_of(path))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import isopatch.training.loop",
        "from isopatch.training import loop",
        "from isopatch import training",
        "from ..training import loop",
        "def late():\n    from isopatch.training.loop import train_run",
    ],
)
def test_a_violation_is_found_in_every_form(text: str) -> None:
    assert len(violations(text, "isopatch.data.synthetic")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from isopatch.image.decode import decode",
        "from isopatch import errors",
        "from . import source",
        "from ..image import decode",
        "import torch",
    ],
)
def test_what_the_table_allows_passes(text: str) -> None:
    assert violations(text, "isopatch.data.synthetic") == []


def test_the_python_interface_does_not_import_the_command_line() -> None:
    assert violations("from isopatch.cli import main", "isopatch.api")
