"""Pieces of a source file whose layout depends on their length, and the docstring's facts."""

from __future__ import annotations

import math
import re
import textwrap
from typing import Any

from isopatch.errors import IsopatchError
from isopatch.image.contract import InputContract
from isopatch.models.spec import ModelSpec

COLUMNS = 110
WEIGHTS = (
    "Weights: PyTorch's defaults, not the paper's initialisation; a checkpoint of isopatch loads as it is, "
    'by model.eval().load_state_dict(safetensors.torch.load_file("model.safetensors")).'
)
LICENCE = "Licence: Apache-2.0; written by isopatch export."
# What acts in training alone is not in the file.
TRAINING = {
    "dropout": "dropout",
    "attention_dropout": "attention dropout",
    "embedding_dropout": "embedding dropout",
    "drop_path": "drop path",
}


def facts(spec: ModelSpec, paper: str, weights: str = WEIGHTS) -> str:
    """Return the end of the docstring: paper, input, weights, what is left out, licence.

    weights: the paragraph about them.
    Raises IsopatchError where the input contract, which may come from a file, holds impossible values.
    """
    used = [f"{word} {spec.arguments[key]:g}" for key, word in TRAINING.items() if spec.arguments.get(key)]
    paragraphs = [
        f"Paper: {paper}.",
        f"Input: {_input(spec.input)}",
        weights,
        *([f"Left out: {', '.join(used)}; they act in training alone."] if used else []),
        LICENCE,
    ]
    return "\n".join(textwrap.fill(paragraph, COLUMNS, break_long_words=False) for paragraph in paragraphs)


def _input(contract: InputContract) -> str:
    try:
        sides = [math.floor(side / contract.crop_fraction) for side in (contract.height, contract.width)]
        how = {"shorter": "to cover", "squash": "to"}[contract.resize]
        kernel = {"bicubic": "bicubic", "bilinear": "bilinear"}[contract.interpolation]
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (contract.mean, contract.std))
    except (KeyError, TypeError, ValueError):
        raise IsopatchError(f"the model's input is described by impossible values: {contract}") from None
    return (
        f"RGB pictures, resized ({kernel}) {how} {sides[0]} x {sides[1]}, cut to the central "
        f"{contract.height} x {contract.width}, scaled to 0..1, normalised with mean ({mean}) and "
        f"std ({std})."
    )


def with_imports(body: str) -> str:
    """Put the imports that a file's body uses before it, two blank lines apart."""
    lines = ["from collections import OrderedDict", ""] if "OrderedDict(" in body else []
    lines += ["import torch"] if re.search(r"\btorch\.", body) else []
    lines += ["from torch import Tensor, nn"]
    lines += ["from torch.nn import functional as F"] if re.search(r"\bF\.", body) else []
    return "\n".join([*lines, "", "", body.rstrip(), ""])


def hidden(dim: int, ratio: float) -> str:
    """Return the width inside an MLP as an expression of `dim` where it is a multiple: `4 * dim`."""
    width = int(dim * ratio)
    if width % dim:
        return str(width)
    return "dim" if width == dim else f"{width // dim} * dim"


def number(value: float) -> str:
    """Return a number as people write it: 1e-6 for Python's 1e-06."""
    mantissa, _, exponent = repr(value).partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def signature(**defaults: Any) -> str:
    """Return `def __init__(self, name=value, ...) -> None:` inside a class, wrapped as ruff wraps it."""
    pairs = (f"{name}={_plain(value)}" for name, value in defaults.items())
    return call(4, "def __init__", "self", *pairs, end=" -> None:")


def call(indent: int, head: str, *arguments: str, end: str = "") -> str:
    """Return `head(argument, ...)end`, wrapped as ruff wraps it; empty arguments are left out.

    indent: columns before the first line, which stand in the template.
    """
    given = [argument for argument in arguments if argument]
    line = f"{head}({', '.join(given)}){end}"
    if indent + len(line) <= COLUMNS:
        return line
    outer, inner = " " * indent, " " * (indent + 4)
    line = inner + ", ".join(given)
    body = [line] if len(line) <= COLUMNS else [f"{inner}{argument}," for argument in given]
    return "\n".join([f"{head}(", *body, f"{outer}){end}"])


def flow(*steps: str) -> str:
    """Return a line of the docstring's drawing, `step -> step -> ...`, wrapped before an arrow."""
    text = " -> ".join(step for step in steps if step)
    wrapped = textwrap.wrap(
        text.replace(" -> ", "\n-> ").replace(" ", "\0").replace("\n", " "),
        COLUMNS,
        initial_indent="    ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapped).replace("\0", " ")


def _plain(value: Any) -> str:
    return repr(tuple(value)) if isinstance(value, list) else repr(value)
