"""`isopatch convert`: open, write beside, read back, compare, rename. Nothing is left where a step fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isopatch.conversion import peers, place, targets
from isopatch.conversion.compare import TOLERANCE, compare
from isopatch.conversion.pictures import GeneratedPictures
from isopatch.conversion.targets import Format
from isopatch.data.source import ImageSource
from isopatch.errors import IsopatchError, UsageError
from isopatch.image.prepare import resized_size
from isopatch.models.formats import transformers_config
from isopatch.models.formats.transformers import is_transformers
from isopatch.models.load import Opened
from isopatch.models.spec import ModelSpec
from isopatch.models.tally import identities
from isopatch.nn.classifier import Classifier


@dataclass(frozen=True)
class Check:
    """What to compare the logits with, and on what.

    against: "timm", "transformers" or a checkpoint; None: the code of the format's own project where it is
        installed. pictures: None generates a few. what: to call them. labelled: their labels are the model's
        classes. tolerance: largest difference of a logit, over the largest logit.
    """

    against: str | None = None
    pictures: ImageSource | None = None
    what: str = ""
    labelled: bool = False
    tolerance: float = TOLERANCE


def convert(
    opened: Opened,
    source: str | Path,
    target: Path,
    *,
    to: Format,
    overwrite: bool = False,
    check: Check | None = None,
) -> dict[str, Any]:
    """Write an opened model in the format `to` at `target`; return the report (see `api.convert`).

    Nothing is at `target` unless every step went well: what the format cannot hold is refused first, the
    written weights are read back and must be the same to the bit, and a comparison within its tolerance.
    """
    model, spec = opened.model, opened.model.spec
    ready(to, target, source, overwrite=overwrite)
    targets.refuse_what_is_lost(to, spec, target)
    state = targets.state_for(to, model)
    with place.beside(target) as temporary:
        files = targets.write(to, model, temporary, state)
        back = targets.read_back(to, temporary, model)
        report: dict[str, Any] = {
            "source": str(source),
            "target": str(target),
            "format": to,
            "model": spec.name,
            "architecture": spec.architecture,
            "parameters": sum(p.numel() for p in model.parameters()),
            "files": files,
            "read": opened.tally.to_json(),
            "written": {
                "tensors": len(state),
                "reshaped": _reshaped(state, model),
            },
            "round_trip": _round_trip(model, back, target),
            "not_kept": _not_kept(to, spec, back.model.spec, target),
            "other_settings": _other_settings(to, spec),
            "check": None,
        }
        if check is not None:
            report["check"] = _check(check, to, temporary, target, opened, source)
        passed = check is None or report["check"]["passed"]
        if passed:
            place.put(temporary, target)
    return {**report, "passed": passed}


def ready(to: Format, target: Path, source: str | Path, *, overwrite: bool) -> None:
    """Refuse what can be refused before anything is read: the wrong suffix, a place that is taken."""
    folder = targets.is_folder(to, target)
    place.refuse_taken(target, source, folder=folder, overwrite=overwrite, ours=targets.FOLDER_FILES)


def _reshaped(state: Mapping[str, torch.Tensor], model: Classifier) -> list[str]:
    own = identities(model.state_dict())
    return [name for name, t in state.items() if (t.data_ptr(), tuple(t.shape)) not in own]


def _round_trip(model: Classifier, back: Opened, target: Path) -> dict[str, Any]:
    """Compare what our own reader makes of the file with what was meant; any difference is refused."""
    own, other = model.state_dict(), back.model.state_dict()
    odd = sorted(own.keys() ^ other.keys())
    if odd:
        raise IsopatchError(f"{target}: not written, {odd[0]} was lost, a fault of isopatch")
    largest = 0.0
    for key, tensor in own.items():
        if tensor.numel():
            largest = max(largest, float((tensor.double() - other[key].double()).abs().max()))
    if largest:
        raise IsopatchError(f"{target}: not written, read back it is {largest:.1e} off; is the disk sound?")
    return {"max_abs_error": largest, "tensors": len(own), **back.tally.to_json()}


def _not_kept(to: Format, spec: ModelSpec, back: ModelSpec, target: Path) -> list[str]:
    """What was known about the model and is not in the files, found by reading them."""
    if not targets.is_folder(to, target):
        known = ["input settings"] + ([f"{len(spec.classes)} class names"] if spec.classes else [])
        return [f"{' and '.join(known)}: a {target.suffix} file holds tensors alone"]
    lost = []
    if spec.classes is not None and back.classes != spec.classes:
        lost.append(f"{len(spec.classes)} class names")
    if to == "transformers" and transformers_config.describe_input(spec.input) is None:
        return [*lost, "how pictures are prepared: transformers has no processor that does it this way"]
    before, after = spec.input, back.input
    for key, value in before.to_json().items():
        other = after.to_json()[key]
        same_resize = all(
            resized_size(*size, before) == resized_size(*size, after) for size in ((640, 480), (300, 500))
        )
        if other != value and not (key == "crop_fraction" and same_resize):
            lost.append(f"input {key} {value} (read back: {other})")
    return lost


def _other_settings(to: Format, spec: ModelSpec) -> list[str]:
    """Settings that are built into the code that reads the format, where the model's own differ."""
    fixed = targets.fixed_settings(to, spec)
    own = {"activation": "gelu", **spec.arguments}
    notes = [f"{key} is {own[key]} here, {value} in the code that reads {to}" for key, value in fixed.items()]
    if to == "npz" and spec.architecture == "hybrid":
        notes.append(
            "GroupNorm eps is 1e-05 here, 1e-06 in Google's code, which standardises with std + 1e-05"
        )
    return notes


# --- the other side -------------------------------------------------------------------------------------


def _check(
    check: Check, to: Format, written: Path, target: Path, opened: Opened, source: str | Path
) -> dict[str, Any]:
    model = opened.model
    pictures = check.pictures or GeneratedPictures(model.spec.input)
    ours = peers.our_side(model, f"isopatch, reading {source}")
    with _other_side(check.against, to, written, target, opened, source) as theirs:
        result = compare(ours, theirs, pictures, labelled=check.labelled, tolerance=check.tolerance)
    what = check.what or f"{len(pictures)} generated pictures"
    return {"pictures": what, "precision": "float32", **result}


@contextlib.contextmanager
def _other_side(
    against: str | None, to: Format, written: Path, target: Path, opened: Opened, source: str | Path
) -> Iterator[peers.Side]:
    """Yield the other side: the peer's own code with the written file, the source, or a copy made for it."""
    spec = opened.model.spec
    if against not in (None, *peers.PEERS):
        yield peers.file_side(str(against), spec)
        return
    if against is not None:
        peers.require(against)
    reader = against or _own_reader(to, spec)
    if reader is None or not peers.available(reader):
        missing = f" ({reader} is not installed)" if reader else ""
        yield peers.our_side(
            targets.read_back(to, written, opened.model).model, f"isopatch, reading {target}{missing}"
        )
        return
    side = peers.timm_side if reader == "timm" else peers.transformers_side
    if _own_reader(to, spec) == reader:
        yield side(written, spec, str(target))
    elif _is_peers(opened, reader):
        yield side(opened.found.weights.parent, spec, str(source))
    else:
        with _copy_for(reader, opened.model, written) as copy:
            yield side(copy, spec, "a copy in its own format")


def _own_reader(to: Format, spec: ModelSpec) -> str | None:
    """Whose code reads a format here: DeiT's runs on timm's models, and timm has a reader of Google's ViT."""
    if to == "npz" and spec.architecture == "mlp_mixer":
        return None
    return {"timm": "timm", "deit": "timm", "npz": "timm", "transformers": "transformers"}.get(to)


def _is_peers(opened: Opened, reader: str) -> bool:
    """Whether the source is a folder in the reader's own format."""
    config = opened.found.config
    if config is None or opened.found.weights.name != "model.safetensors":
        return False
    return is_transformers(config) == (reader == "transformers")


@contextlib.contextmanager
def _copy_for(reader: str, model: Classifier, beside: Path) -> Iterator[Path]:
    """Write the model in the peer's own format, for as long as it is compared."""
    to: Format = "transformers" if reader == "transformers" else "timm"
    copy = beside.parent / ("copy" if to == "transformers" else "copy.safetensors")
    targets.refuse_what_is_lost(to, model.spec, copy)
    targets.write(to, model, copy, targets.state_for(to, model))
    yield copy


def as_tolerance(value: float | None) -> float:
    """Return a tolerance, the default for None; raises UsageError for one that is no positive number."""
    if value is None:
        return TOLERANCE
    if not 0 < value < float("inf"):
        raise UsageError(f"tolerance {value:g}: give a relative difference above 0, such as 1e-5")
    return value
