"""Every model name: size, input contract, exact counts, published accuracy. Imports no torch.

Names are timm's where timm has the model; sizes it does not have follow the same grammar
(`convmixer_<dim>_<depth>_ks<kernel>_p<patch>`). Parameters and multiply-adds are counted on the meta device
(torch.utils.flop_counter: convolutions, matrix products and attention products; no norms, activations,
softmax or biases) and counted again by the tests. The entries stand in `sizes/`, short aliases beside them.
"""

from __future__ import annotations

from collections.abc import Iterable

from isopatch.errors import UsageError, nearest
from isopatch.models.entry import ModelEntry
from isopatch.models.external.names import external_entry, is_external
from isopatch.models.sizes import bench, comparators, convmixers, hybrids, mlps, transformers

_TABLES = (transformers, hybrids, convmixers, mlps, comparators, bench)

ALIASES: dict[str, str] = {}
for _table in _TABLES:
    ALIASES.update(_table.ALIASES)

MODELS: dict[str, ModelEntry] = {entry.name: entry for table in _TABLES for entry in table.ENTRIES}


def list_models() -> list[str]:
    """Return every canonical name, in the table's order."""
    return list(MODELS)


def aliases_of(name: str) -> list[str]:
    """Return the short names of a canonical name."""
    return [alias for alias, target in ALIASES.items() if target == name]


def resolve(name: str) -> ModelEntry:
    """Return the entry of a canonical name or alias; an unknown one raises UsageError with the nearest.

    Names of other libraries (`timm:NAME`, `torchvision:NAME`) have no line in the table: theirs is made here,
    which imports the library.
    """
    if is_external(name):
        return external_entry(name)
    canonical = ALIASES.get(name, name)
    if canonical not in MODELS:
        known: Iterable[str] = (*MODELS, *ALIASES)
        raise UsageError(
            f"unknown model '{name}'{nearest(name, known)}; 'isopatch models list' shows every name; "
            f"timm's and torchvision's own are timm:NAME and torchvision:NAME"
        )
    return MODELS[canonical]
