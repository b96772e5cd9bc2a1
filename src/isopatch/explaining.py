"""Explain whatever `load` opens: its weights, pictures, a data set, and other models beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from isopatch.data.source import ImageSource
from isopatch.data.sources.relabel import relabel
from isopatch.errors import IsopatchError, UsageError, nearest
from isopatch.evaluation import split_of
from isopatch.explain.contract import Context, Explanation, Figure, Shown
from isopatch.explain.depths import seen_size
from isopatch.explain.made import Made, make, require_finite
from isopatch.explain.options import read_options
from isopatch.explain.page import describe, write_files
from isopatch.explain.shown import cut_to, show, show_file, spread
from isopatch.explain.table import EXPLANATIONS, find
from isopatch.image.contract import InputContract
from isopatch.image.decode import DecodeError
from isopatch.image.prepare import prepare
from isopatch.models.load import load_for_pictures
from isopatch.nn.classifier import Classifier
from isopatch.predict import Input, expand_inputs, require_device

MOST_PICTURES = 64  # on one page, each with a figure per explanation
SAMPLE = 128  # pictures for statistics, as in Dosovitskiy et al. 2020, appendix D.7
MOST_COMPARED = 2


@dataclass(frozen=True)
class Explained:
    """What `explain_checkpoint` made.

    made: each explanation with its figures, or why it was left out. document: the same as plain values.
    folder: where it was written, or None.
    """

    made: tuple[Made, ...]
    document: dict[str, Any] = field(repr=False)
    folder: Path | None = None

    @property
    def figures(self) -> dict[str, tuple[Figure, ...]]:
        """The figures of each explanation that has any."""
        return {one.explanation.name: one.figures for one in self.made if one.figures}


def explain_checkpoint(
    source: str | Path,
    pictures: Sequence[Input] = (),
    *,
    what: Sequence[str] | None = None,
    compare: Sequence[str | Path] = (),
    data: str | None = None,
    split: str | None = None,
    num_pictures: int = 0,
    class_name: str | None = None,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Explained:
    """Show what a trained model has learned, and what it looks at in pictures.

    source, name, arguments: the model, as for `load`. pictures: paths (files, folders, patterns) or PIL
        pictures, at most 64; one that cannot be read is listed and left out.
    what: names of explanations (`isopatch.explain.table`); None makes all that the model has and that what
        was given allows, and says of the others why not.
    compare: one or two other models, beside which attention-distance and similarity show this one.
    data, split, num_pictures: a data set for statistics (128 pictures of the split, drawn by seed), and how
        many of its pictures to explain too.
    class_name: the class to explain; None takes each picture's most probable one.
    options: names and values of `isopatch.explain.options`, {"rollout.fusion": "max"}.
    out: a folder for the figures, explanations.json and explanations.html; None writes nothing.
    Raises UsageError for a request that cannot work, IsopatchError where the weights are not finite or not
    one picture could be read.
    """
    settings = read_options((options or {}).items())
    if what is not None:
        _require_use(compare, find(what))  # a typing error is said before anything is loaded
    if len(compare) > MOST_COMPARED:
        raise UsageError(f"--compare: {len(compare)} models, at most {MOST_COMPARED} stand beside another")
    if num_pictures < 0 or seed < 0:
        raise UsageError(f"--pictures {num_pictures}, --seed {seed}: give 0 or more")
    if data is None and (split is not None or num_pictures):
        raise UsageError("--split and --pictures choose from --data: give that too")
    place = str(require_device(device))
    model = _opened(source, place, name=name, arguments=arguments)
    contract: InputContract = model.spec.input
    shown, notes = _read(pictures, contract)
    chosen: ImageSource | None = None
    labelled, classes = False, model.spec.classes or _numbered(model)
    if data is not None:
        chosen, labelled, classes = _pictures_of(source, data, split, model, notes)
    if class_name is not None:
        settings["class"] = _class_index(class_name, classes)
    sample = labels = None
    others = [_opened(other, place) for other in compare]
    if chosen is not None:
        indices = spread(chosen, min(SAMPLE, len(chosen)), seed=seed)
        sample = _prepared(chosen, indices, model)
        labels = torch.tensor([int(chosen.labels[i]) for i in indices]) if labelled else None
        for other, key in zip(others, ("other_sample", "second_sample"), strict=False):
            settings[key] = _prepared(chosen, indices, other)
        shown += [
            show(chosen.read(i), chosen.name(i), contract, label=int(chosen.labels[i]) if labelled else None)
            for i in spread(chosen, num_pictures, seed=seed)
        ]
    if len(shown) > MOST_PICTURES:
        raise UsageError(
            f"{len(shown)} pictures: explanations are looked at one by one, give at most {MOST_PICTURES}"
        )
    names = short_names([source, *compare])
    if len(others) > 1:
        settings |= {"second": others[1], "second_name": names[2]}
    context = Context(
        model=model,
        name=names[0],
        classes=classes,
        pictures=tuple(cut_to(one, *seen_size(model, contract.height, contract.width)) for one in shown),
        sample=sample,
        sample_labels=labels,
        other=others[0] if others else None,
        other_name=names[1] if others else "",
        device=place,
        seed=seed,
        options=settings,
    )
    made = make(context, what)
    document = {
        "title": model.spec.name,
        "source": str(source),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "compare": [str(other) for other in compare],
        "pictures": [one.name for one in shown],
        "data": data,
        "seed": seed,
        "notes": notes,
    }
    if out is None:
        return Explained(tuple(made), {**document, "explanations": [describe(one) for one in made]})
    return Explained(tuple(made), write_files(Path(out), document, made), Path(out))


def _require_use(compare: Sequence[str | Path], wanted: Sequence[Explanation]) -> None:
    """Refuse other models where nothing that was asked for shows them."""
    if compare and not any(one.compares for one in wanted):
        able = " and ".join(one.name for one in EXPLANATIONS if one.compares)
        raise UsageError(
            f"--compare: {', '.join(one.name for one in wanted)} shows one model alone, {able} set others "
            f"beside it; add one of them to --what, or leave --compare out"
        )


def _opened(
    source: str | Path, device: str, *, name: str | None = None, arguments: Mapping[str, Any] | None = None
) -> Classifier:
    """Load a model in float32 and refuse weights that are not finite."""
    model = load_for_pictures(source, name=name, arguments=arguments).float().to(device).eval()
    require_finite(model, str(source))
    return model


def short_names(sources: Sequence[str | Path]) -> list[str]:
    """Return what charts call models: the last part of a path, of best/ its run's; all where two agree."""
    names = []
    for source in sources:
        path = Path(source)
        named = path.exists() and path.resolve().name != ""
        last = path.resolve().parent.name if path.name == "best" else path.resolve().name
        names.append(last if named else str(source))
    return names if len(set(names)) == len(names) else [str(source) for source in sources]


def _read(pictures: Sequence[Input], contract: InputContract) -> tuple[list[Shown], list[str]]:
    """Return what could be read, and a sentence about each picture that could not."""
    shown: list[Shown] = []
    notes: list[str] = []
    items: list[Input] = []
    for item in pictures:
        items += [item] if isinstance(item, Image.Image) else expand_inputs([item])
    if len(items) > MOST_PICTURES:
        raise UsageError(
            f"{len(items)} pictures: explanations are looked at one by one, give at most {MOST_PICTURES}"
        )
    for number, item in enumerate(items, start=1):
        try:
            if isinstance(item, Image.Image):
                shown.append(show(item, f"picture {number}", contract))
            else:
                shown.append(show_file(item, contract))
        except DecodeError as error:
            notes.append(f"{error}: left out")
    if items and not shown:
        raise IsopatchError(f"none of the {len(items)} inputs could be read as a picture ({notes[0]})")
    return shown, notes


def _numbered(model: Classifier) -> tuple[str, ...]:
    """Names for classes that a checkpoint has no names for."""
    return tuple(str(number) for number in range(model.spec.arguments["num_classes"]))


def _pictures_of(
    source: str | Path, data: str, split: str | None, model: Classifier, notes: list[str]
) -> tuple[ImageSource, bool, tuple[str, ...]]:
    """Return the split, whether its labels count the model's classes, and those classes' names.

    A model without names takes those of the data where they are as many, as `isopatch eval` does.
    """
    splits, chosen, pictures = split_of(source, data, split, "fail")
    named = model.spec.classes
    if named is None and len(splits.classes) == model.spec.arguments["num_classes"]:
        named = splits.classes
    if named is not None and set(pictures.classes) <= set(named):
        return relabel(pictures, named, where=f"{os.fspath(data)} ({chosen})"), True, named
    notes.append(f"{data}: its classes are not the model's, so no picture has a true class here")
    return pictures, False, named or _numbered(model)


def _prepared(pictures: ImageSource, indices: Sequence[int], model: Classifier) -> torch.Tensor:
    """Return pictures as they enter a model, without what its stem leaves out."""
    contract: InputContract = model.spec.input
    rows, cols = seen_size(model, contract.height, contract.width)
    return torch.stack([prepare(pictures.read(index), contract)[:, :rows, :cols] for index in indices])


def _class_index(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise UsageError(
            f"--class {name}: no class of the model{nearest(name, classes)}; it has {', '.join(classes[:8])}"
            + (f" and {len(classes) - 8} more" if len(classes) > 8 else "")
        )
    return list(classes).index(name)
