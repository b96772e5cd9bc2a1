"""`isopatch eval --probe`: what the frozen features of any weights tell about the classes of any data."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isopatch.data.source import ImageSource, state_of
from isopatch.errors import UsageError, nearest
from isopatch.evaluation import split_of
from isopatch.kernels.use import use
from isopatch.models.load import load_for_pictures
from isopatch.nn.classifier import Classifier
from isopatch.predict import require_device
from isopatch.probes.cache import FeatureCache
from isopatch.probes.features import Features, features_of, weights_digest
from isopatch.probes.few_shot import few_shot, pictures_needed
from isopatch.probes.full import FULL, Sets, knn, ridge
from isopatch.probes.ridge import SETTINGS, setting_of
from isopatch.probes.shots import draw

log = logging.getLogger("isopatch")

PROBES = ("few-shot", "knn", "logistic", "ridge", "linear")
SHOTS = (1, 5, 10, 25)  # big_vision's
NEIGHBOURS = (1, 10, 20, 100, 200)  # DINO's (Caron et al. 2021), and the nearest alone


def probe(
    source: str | Path,
    data: str,
    *,
    probes: Sequence[str] = ("few-shot", "knn", "logistic", "ridge"),
    shots: Sequence[int] = SHOTS,
    seeds: int = 3,
    ks: Sequence[int] = NEIGHBOURS,
    settings: Sequence[str] = tuple(SETTINGS),
    cache: str | Path | None = None,
    split: str | None = None,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    kernels: str = "auto",
    bad: str = "fail",
    threads: int | None = None,
) -> dict[str, Any]:
    """Probe the frozen features of whatever `load` opens on the classes of a data set.

    The data's classes need not be the model's. The probes learn from its training split and are measured on
    `split` ("test" where there is one, else "val"). A name of timm's or torchvision's is opened as it is.
    probes: "few-shot" (ridge on `shots` pictures of each class, for `seeds` draws of them), "ridge", "knn"
        (`ks`), "logistic" and "linear" on all training pictures.
    settings: of the ridge, see `isopatch.probes.ridge`.
    cache: folder that keeps the features, default `probes` in the run's folder, none for other weights.
    The other arguments are those of `evaluate_checkpoint`.
    Returns plain JSON values: checkpoint, model, data, split, classes, num_train, num_images, features
    (dim, computed, kept), device, precision, kernels, and `probes`, name -> rows (`few_shot.few_shot`,
    `full.Sets.row`). Raises UsageError.
    """
    wanted = _checked(probes, shots, seeds, ks)
    chosen_settings = [setting_of(each) for each in dict.fromkeys(settings)]
    if threads is not None:
        torch.set_num_threads(threads)
    place = require_device(device)
    model = load_for_pictures(source, name=name, arguments=arguments)
    splits, chosen, pictures = split_of(source, data, split, bad)
    if chosen == "train":
        raise UsageError("--split train: the probes learn from it; measure on test or val")
    if splits.train is None:
        raise UsageError(f"{data}: has no training split for a probe to learn from")
    for note in splits.notes:
        if not note.startswith("No validation split"):
            log.info("%s", note)
    classes, labels = splits.classes, splits.train.labels
    few = "few-shot" in wanted
    numbers = sorted(set(shots))
    draws = [draw(labels, classes, seed, most_shots=numbers[-1]) for seed in range(seeds)] if few else []
    everything = any(each != "few-shot" for each in wanted)
    needed = np.arange(len(labels)) if everything else pictures_needed(draws, numbers, chosen_settings)

    digest = weights_digest(model)  # before twins are put in
    model.to(place)
    swapped = use(model, kernels=kernels, precision=precision)
    log.info("%s", swapped)
    reader = _Reader(
        model,
        digest,
        _cache_of(source, cache),
        {"precision": precision, "kernels": swapped.kernels, "device": place.type},
        {"batch_size": batch_size, "workers": workers, "device": str(place), "precision": precision},
    )
    train = reader.features(splits.train, "train", needed)
    test = reader.features(pictures, chosen, np.arange(len(pictures))).values

    rows: dict[str, list[dict[str, Any]]] = {}
    sets = Sets(train.values, labels[train.indices], test, pictures.labels, len(classes))
    for each in wanted:
        log.info("probe: %s", each)
        if each == "few-shot":
            rows[each] = few_shot(
                train,
                labels,
                test,
                pictures.labels,
                num_classes=len(classes),
                draws=draws,
                shots=numbers,
                settings=chosen_settings,
            )
        elif each == "ridge":
            rows[each] = ridge(sets, chosen_settings)
        elif each == "knn":
            rows[each] = knn(sets, ks)
        else:
            rows[each] = FULL[each](sets)
    return {
        "checkpoint": str(source),
        "model": model.spec.name,
        "data": data,
        "split": chosen,
        "classes": len(classes),
        "num_train": len(labels),
        "num_images": len(pictures),
        "features": {"dim": test.shape[1], "computed": reader.computed, "kept": reader.kept},
        "device": str(place),
        "precision": precision,
        **swapped.ran_on(),
        "probes": rows,
    }


class _Reader:
    """Features of one model, from the cache where it has them."""

    def __init__(
        self,
        model: Classifier,
        digest: str,
        cache: FeatureCache | None,
        identity: dict[str, str],
        how: dict[str, Any],
    ) -> None:
        self._model, self._cache, self._how = model, cache, how
        built = {"architecture": model.spec.architecture, "arguments": dict(model.spec.arguments)}
        self._identity = {
            "weights": digest,
            "model": built,  # the same weights behind another activation are other features
            "input": model.spec.input.to_json(),
            **identity,
        }
        self.computed = 0
        self.kept: list[str] = []

    def features(self, source: ImageSource, split: str, indices: NDArray[np.int64]) -> Features:
        """Return the features of the pictures `indices` (ascending) of a split."""
        everything = np.arange(len(source))
        for pictures in (everything, indices):
            found = self._read(source, split, pictures)
            if found is not None:
                return Features(found.take(indices), indices)
            if len(indices) == len(everything):
                break
        log.info("features of %d pictures of the %s split", len(indices), split)
        made = features_of(self._model, source, self._model.spec.input, indices, **self._how)
        self.computed += len(indices)
        if self._cache is not None:
            self.kept.append(str(self._cache.write(self._fingerprint(source, split, indices), made.values)))
        return made

    def _read(self, source: ImageSource, split: str, indices: NDArray[np.int64]) -> Features | None:
        if self._cache is None:
            return None
        fingerprint = self._fingerprint(source, split, indices)
        values = self._cache.read(fingerprint, len(indices))
        if values is None:
            return None
        file = str(self._cache.file(fingerprint))
        log.info("features of the %s split: %s", split, file)
        self.kept.append(file)
        return Features(values, indices)

    def _fingerprint(self, source: ImageSource, split: str, indices: NDArray[np.int64]) -> dict[str, Any]:
        which = hashlib.blake2b(indices.astype("<i8").tobytes(), digest_size=16).hexdigest()
        return {
            **self._identity,
            "data": source.fingerprint,
            "files": state_of(source),
            "split": split,
            "pictures": "all" if len(indices) == len(source) else which,
        }


def _checked(probes: Sequence[str], shots: Sequence[int], seeds: int, ks: Sequence[int]) -> list[str]:
    """Return the probes in their order, each once; raises UsageError for what cannot be asked."""
    wanted = list(dict.fromkeys(probes))
    for each in wanted:
        if each not in PROBES:
            raise UsageError(f"--probe {each}: there are {', '.join(PROBES)}{nearest(each, PROBES)}")
    if not wanted:
        raise UsageError(f"--probe: name at least one of {', '.join(PROBES)}")
    if not shots or min(shots) < 1:
        raise UsageError("--shots: give numbers of pictures per class from 1 up, such as 1,5,10,25")
    if not ks or min(ks) < 1:
        raise UsageError("--probe-k: give numbers of neighbours from 1 up, such as 10,20")
    if seeds < 1:
        raise UsageError(f"--probe-seeds {seeds}: give at least 1")
    return wanted


def _cache_of(source: str | Path, folder: str | Path | None) -> FeatureCache | None:
    if folder is not None:
        return FeatureCache(Path(folder))
    if (Path(source) / "config.yaml").is_file():
        return FeatureCache(Path(source) / "probes")
    log.info("the features are not kept; --probe-cache DIR keeps them for the next probe")
    return None
