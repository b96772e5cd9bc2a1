"""Which model an export is about: a name of the table, or whatever `load` opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isopatch.export.source.render import refuse_wrapped
from isopatch.models.load import load
from isopatch.models.spec import ModelSpec, make_spec
from isopatch.models.table import ALIASES, MODELS


def spec_of(
    source: str,
    *,
    name: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """Return the spec of a model name or of a run, a checkpoint or a weights file.

    A name goes before a folder that is called the same; `./vit` is the folder. name: which model a file holds
    that does not say so. image_size, arguments: overrides of the model's own.
    Raises what `make_spec` and `load` raise, and UsageError for `timm:NAME` and `torchvision:NAME`.
    """
    if not Path(source).exists():  # before published weights are looked for
        refuse_wrapped(source.partition(":")[0] if ":" in source else "")
    is_path = Path(source).exists() or "/" in source or ":" in source
    if name is not None or (is_path and source not in MODELS and source not in ALIASES):
        spec: ModelSpec = load(source, name=name, image_size=image_size, arguments=arguments).spec
        return spec
    given = dict(arguments or {})
    if image_size is not None:
        given["image_size"] = image_size
    return make_spec(source, given)
