"""From a model's spec to one file of Python: the same logits from the same weights, torch alone.

`templates/<architecture>.py.j2` is the file of one architecture, specialised to a spec; adding an
architecture is adding its template. Parameters must get the names they have in isopatch. A template sees the
architecture's arguments by name, and

name, parameters: of the model. picture: the shape of a batch. rows, cols: of the grid that leaves the stem.
facts(paper, weights): the end of the docstring. signature(**defaults): the first line of a constructor.
call(indent, head, *arguments): a call, wrapped where it is long. flow(*steps): a line of the drawing.
hidden(dim, ratio): the width of an MLP, as an expression. prime_factors(number): smallest first.

Filters: `module`, from an activation's name; `number`, 1e-06 as 1e-6; `with_imports`, around everything below
the docstring.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from isopatch.errors import UsageError
from isopatch.export.source.text import call, facts, flow, hidden, number, signature, with_imports
from isopatch.models.bench_slots import prime_factors
from isopatch.models.spec import ModelSpec, build, resolve

ENDING = ".py.j2"
# Architectures that wrap another library's modules: the source of those is that library's.
WRAPPED = ("timm", "torchvision")
ACTIVATIONS = {"gelu": "nn.GELU()", "gelu_tanh": 'nn.GELU("tanh")', "relu": "nn.ReLU()"}


def architectures() -> list[str]:
    """Return the architectures that have a template."""
    names = (name.removesuffix(ENDING) for name in _environment().list_templates())
    return [name for name in names if not name.startswith("_")]


def render_source(spec: ModelSpec) -> str:
    """Return the source of a model: a class whose defaults and parameter names are the spec's.

    What acts in training alone (dropout, drop path) and the initialisation are left out.
    Raises UsageError for a model of another library and for an architecture without a template.
    """
    refuse_wrapped(spec.architecture)
    if spec.architecture not in architectures():
        raise UsageError(
            f"{spec.architecture} cannot be written as source yet; these can: {', '.join(architectures())}"
        )
    return _render(spec.architecture, spec)


def refuse_wrapped(library: str) -> None:
    """Raise UsageError for an architecture that is another library's."""
    if library in WRAPPED:
        raise UsageError(
            f"a model of {library} cannot be written as source: its modules are {library}'s; isopatch writes "
            f"the models that it defines itself"
        )


def render_short(spec: ModelSpec) -> str:
    """Return ConvMixer as short as it gets, with a function that renames isopatch's weights for it.

    Raises UsageError for every other architecture and for even kernels.
    """
    if spec.architecture != "convmixer":
        raise UsageError(f"the shortest form is ConvMixer's, {spec.name} is a {spec.architecture}")
    kernel = spec.arguments["kernel_size"]
    if kernel % 2 == 0:
        raise UsageError(
            f"kernel_size {kernel}: the shortest form pads by half a kernel on both sides, which keeps the "
            f"size of the map for odd kernels alone; the readable form takes even ones too"
        )
    return _render("_convmixer_short", spec)


def _render(template: str, spec: ModelSpec) -> str:
    with torch.device("meta"), torch.no_grad():
        model = build(spec).eval()
        batch = torch.empty(1, spec.arguments["in_channels"], spec.input.height, spec.input.width)
        rows, cols = model.features(batch, depth=0).grid
    values: dict[str, Any] = {
        **spec.arguments,
        # A stored spec is a stranger's text: of its name and contract only what is checked is written.
        "name": resolve(spec.name).name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows": rows,
        "cols": cols,
        "picture": f"(B, {batch.shape[1]}, {batch.shape[2]}, {batch.shape[3]})",
        "facts": partial(facts, spec),
        "hidden": hidden,
        "signature": signature,
        "prime_factors": prime_factors,
    }
    return _environment().get_template(template + ENDING).render(values)


@cache
def _environment() -> Environment:
    """The templates; a forgotten value is an error."""
    environment = Environment(
        loader=PackageLoader("isopatch.export.source"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Macros see globals, and not what one rendering is given.
    environment.globals.update(call=call, flow=flow)
    environment.filters["module"] = ACTIVATIONS.__getitem__
    environment.filters["number"] = number
    environment.filters["with_imports"] = with_imports
    return environment
