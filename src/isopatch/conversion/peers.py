"""The other side of a comparison: the written checkpoint in its project's own code, or another file."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from isopatch.conversion import settings
from isopatch.errors import UsageError
from isopatch.image.contract import InputContract
from isopatch.models.foreign import input_in
from isopatch.models.formats import timm_config, transformers
from isopatch.models.formats.timm_build import import_timm, timm_model
from isopatch.models.held import grid_of
from isopatch.models.load import load, open_weights
from isopatch.models.locate import locate
from isopatch.models.native import read_config
from isopatch.models.spec import ModelSpec
from isopatch.nn.classifier import Classifier
from isopatch.nn.skeleton import Isotropic

PEERS = ("timm", "transformers")


@dataclass(frozen=True)
class Side:
    """One implementation with its weights.

    what: whose code, reading what. logits: pictures (B, C, H, W) float32 -> (B, K). contract: how it wants
    pictures prepared. settings: see `settings.py`.
    """

    what: str
    logits: Callable[[Tensor], Tensor]
    contract: InputContract
    settings: dict[str, Any]


def our_side(model: Classifier, what: str) -> Side:
    """Return our own code with a loaded model."""
    blocks = model.blocks if isinstance(model, Isotropic) else model
    return Side(
        what=what,
        logits=model,
        contract=model.spec.input,
        settings={
            **settings.of_modules(blocks, model),
            "heads": settings.of_heads(len(model.heads)),
            **settings.of_input(model.spec.input),
        },
    )


def file_side(path: str | Path, spec: ModelSpec) -> Side:
    """Return our own code with another file; one that does not name its model is read as `spec`'s."""
    found = locate(path)
    says = found.folder is not None or transformers.is_transformers(found.config)
    if says or timm_config.entry_told(found.config) is not None:
        other = load(path)
    else:
        arguments = {key: value for key, value in spec.arguments.items() if key != "num_classes"}
        grid = grid_of(spec.architecture, spec.arguments)  # a bare file does not say how its places lie
        other = open_weights(path, spec.name, arguments=arguments, grid=grid).model
    return our_side(other, f"isopatch, reading {path}")


def available(peer: str) -> bool:
    """Whether another project's code is installed."""
    return find_spec(peer) is not None


def require(peer: str) -> None:
    """Raise UsageError where it is not."""
    if not available(peer):
        raise UsageError(f"{peer} is not installed, and its own code was asked for: pip install {peer}")


# --- timm -----------------------------------------------------------------------------------------------


def timm_side(path: Path, spec: ModelSpec, shown: str) -> Side:
    """Return timm's model with the weights at `path`, read by timm.

    path: a folder with timm's config.json, or a file of timm's, of DeiT's names or Google's; timm's class is
    then built for `spec`. shown: what to call the path.
    """
    timm = import_timm()
    if path.is_dir():
        model = timm.create_model(f"local-dir:{path}", pretrained=True)
        named = True
    else:
        model = timm_model(spec)
        named = timm_config.in_timm(spec.name)  # what timm would prepare for another name says nothing
        timm.models.load_checkpoint(model, str(path), filter_fn=_timm_filter(spec.architecture))
    model = model.eval()
    told, _ = input_in({"pretrained_cfg": model.pretrained_cfg}) if named else ({}, None)
    contract = InputContract.from_json({**spec.input.to_json(), **told})
    heads = 2 if type(model).__name__ == "VisionTransformerDistilled" else 1
    return Side(
        what=f"timm {timm.__version__}, reading {shown}",
        logits=model,
        contract=contract,
        settings={
            **settings.of_modules(model.blocks, model),
            "heads": settings.of_heads(heads),
            **(settings.of_input(contract) if told else {}),
        },
    )


def _timm_filter(architecture: str) -> Callable[..., Any] | None:
    """What timm passes published files of a family through."""
    from timm.models import mlp_mixer, vision_transformer

    if architecture in ("mlp_mixer", "resmlp", "gmlp"):
        found: Callable[..., Any] = mlp_mixer.checkpoint_filter_fn
        return found
    if architecture in ("deit", "deit3"):
        return functools.partial(vision_transformer.checkpoint_filter_fn, adapt_layer_scale=True)
    return None


# --- transformers ---------------------------------------------------------------------------------------


def transformers_side(path: Path, spec: ModelSpec, shown: str) -> Side:
    """Return transformers' model with the weights of its folder at `path`, read by transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers as theirs

    theirs.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = theirs.AutoModelForImageClassification.from_pretrained(path, local_files_only=True).eval().float()
    beside = path / "preprocessor_config.json"
    preprocessor = read_config(beside) if beside.is_file() else None
    told = transformers.told_by(read_config(path / "config.json"), preprocessor, where=str(path))
    contract = InputContract.from_json({**spec.input.to_json(), **told.input})
    config = model.config

    def logits(pictures: Tensor) -> Tensor:
        result: Tensor = model(pictures).logits
        return result

    return Side(
        what=f"transformers {theirs.__version__}, reading {shown}",
        logits=logits,
        contract=contract,
        settings={
            **settings.of_modules(model, model),
            "heads": settings.of_heads(2 if config.model_type == "deit" else 1),
            **(settings.of_input(contract) if told.input else {}),
        },
    )
