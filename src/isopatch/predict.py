"""Classify pictures with a trained model: one, many, or a stream of any length in constant memory."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile

from isopatch.data.pack_index import is_pack
from isopatch.errors import UsageError
from isopatch.image.decode import MAX_PIXELS, DecodeError, decode, decode_opened
from isopatch.image.names import printable
from isopatch.image.prepare import prepare
from isopatch.kernels.use import use
from isopatch.models.load import load_for_pictures
from isopatch.training.evaluate import forward_heads
from isopatch.training.metrics import check_finite, softmax

log = logging.getLogger("isopatch")

Input = str | os.PathLike[str] | Image.Image


@dataclass(frozen=True)
class Prediction:
    """What the model says about one picture.

    path: as it was given; "" for a picture handed over in memory.
    labels, probabilities: the most probable classes, best first; empty where the picture was unreadable.
    error: why it could not be read, or None.
    """

    path: str
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None

    @property
    def label(self) -> str | None:
        """The most probable class, or None where the picture was unreadable."""
        return self.labels[0] if self.labels else None

    @property
    def probability(self) -> float | None:
        """The probability of `label`."""
        return self.probabilities[0] if self.probabilities else None


class Predictor:
    """A model loaded once, ready for pictures.

    source: whatever `isopatch.load` takes: a run folder, `best/`, a weights file or a hub id.
    name, arguments: which model a file that does not say so holds, as in `load`.
    top_k: classes reported per picture, at most the model's number of classes.
    device: "cpu", "cuda" or "cuda:N".
    batch_size: pictures per forward pass; the stream holds at most two batches of them.
    kernels: "auto", "plain", "native" or "triton", as in `isopatch.kernels.swap`; the attribute says which.
    classes: the stored class names; the numbers "0", "1", ... where the weights carry none.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        device: str = "cpu",
        top_k: int = 5,
        batch_size: int = 64,
        precision: str = "fp32",
        kernels: str = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Load the model.

        Raises `UsageError` for a device that is not there, `UsageError` or `IsopatchError` where
        `isopatch.load` does.
        """
        if top_k < 1 or batch_size < 1:
            raise UsageError(f"top_k {top_k} and batch_size {batch_size} must be at least 1")
        place = require_device(device)
        self.model = load_for_pictures(source, name=name, arguments=arguments).to(place).eval()
        self.spec = self.model.spec
        count = int(self.spec.arguments["num_classes"])
        self.classes: tuple[str, ...] = self.spec.classes or tuple(str(index) for index in range(count))
        self.device = str(place)
        self.top_k = min(top_k, len(self.classes))
        self.batch_size = batch_size
        self.precision: str = precision
        self.max_pixels = max_pixels
        swapped = use(self.model, kernels=kernels, precision=precision)
        self.kernels = swapped.kernels
        log.info("%s", swapped)

    @overload
    def __call__(self, inputs: Input) -> Prediction: ...  # type: ignore[overload-overlap]  # a str first

    @overload
    def __call__(self, inputs: Sequence[Input]) -> list[Prediction]: ...

    def __call__(self, inputs: Input | Sequence[Input]) -> Prediction | list[Prediction]:
        """Classify a path or PIL picture, or a list of either; one input gives one `Prediction`.

        A picture that cannot be read gives a `Prediction` with its error. A path that does not exist too.
        """
        if isinstance(inputs, str | os.PathLike | Image.Image):
            return next(self.stream([inputs]))
        return list(self.stream(inputs))

    def stream(self, inputs: Iterable[Input]) -> Iterator[Prediction]:
        """Yield one `Prediction` per input, in order, holding at most two batches of pictures.

        Pictures are decoded by threads while the model works on the batch before. Raises `IsopatchError`
        naming the picture where the model's output is not finite.
        """
        threads = min(4, os.cpu_count() or 1)
        remaining = iter(inputs)
        waiting: deque[list[tuple[str, Future[torch.Tensor | str]]]] = deque()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="isopatch-decode")
        try:
            while True:
                while len(waiting) < 2 and (chunk := list(islice(remaining, self.batch_size))):
                    waiting.append([(_name(item), self._submit(pool, item)) for item in chunk])
                if not waiting:
                    return
                batch = waiting.popleft()
                yield from self._classify([(name, future.result()) for name, future in batch])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def logits(self, images: torch.Tensor, names: Sequence[str]) -> NDArray[np.float64]:
        """Return float64 logits (B, K) of prepared pictures (B, 3, H, W); names are for messages."""
        outputs = forward_heads(self.model, images, device=self.device, precision=self.precision)
        scores = outputs[None].astype(np.float64)
        check_finite(scores, lambda row: names[row] or f"picture {row}")
        return scores

    def _prepare(self, item: Input) -> torch.Tensor | str:
        """Return the picture's tensor (3, H, W), or why there is none."""
        if isinstance(item, Image.Image):
            try:
                # Opened from a file and untouched, its rotation and tags still count; in a copy they do not.
                if isinstance(item, ImageFile.ImageFile):
                    item = decode_opened(item, name="", max_pixels=self.max_pixels)
                return prepare(item, self.spec.input)
            except DecodeError as error:
                return error.reason
            except Exception as error:  # decoding may happen only now, and fails in many ways
                return str(error) or type(error).__name__
        try:
            picture = decode(Path(item), name=printable(item), max_pixels=self.max_pixels)
        except DecodeError as error:
            return error.reason
        return prepare(picture, self.spec.input)

    def _submit(self, pool: ThreadPoolExecutor, item: Input) -> Future[torch.Tensor | str]:
        """Prepare files in a thread; pictures in memory here, one may be in the list twice."""
        if not isinstance(item, Image.Image):
            return pool.submit(self._prepare, item)
        done: Future[torch.Tensor | str] = Future()
        done.set_result(self._prepare(item))
        return done

    def _classify(self, batch: list[tuple[str, torch.Tensor | str]]) -> list[Prediction]:
        readable = [(name, item) for name, item in batch if isinstance(item, torch.Tensor)]
        results: Iterator[Prediction] = iter(())
        if readable:
            names = [name for name, _ in readable]
            scores = self.logits(torch.stack([item for _, item in readable]), [printable(n) for n in names])
            probabilities = softmax(scores)[0]
            order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top_k]
            results = iter(
                Prediction(
                    name,
                    tuple(self.classes[index] for index in best),
                    tuple(float(row[index]) for index in best),
                )
                for name, row, best in zip(names, probabilities, order, strict=True)
            )
        return [
            Prediction(name, error=item) if isinstance(item, str) else next(results) for name, item in batch
        ]


def _name(item: Input) -> str:
    return "" if isinstance(item, Image.Image) else os.fspath(item)


def require_device(name: str) -> torch.device:
    """Return the device called `name` ("cpu", "cuda", "cuda:1").

    Raises `UsageError` naming what there is, where `name` is no device or one this machine does not have.
    """
    there = ["cpu"]
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None:
        there += [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())]
    with contextlib.suppress(RuntimeError):  # no device at all: torch lists every backend it can be built for
        device = torch.device(name)
        if device.type == "cpu" or f"{device.type}:{device.index or 0}" in there:
            return device
    raise UsageError(
        f"device '{name}' was asked for, this machine has {', '.join(there)}; choose one of them"
    )


def expand_inputs(inputs: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the files that `inputs` mean, in order, each once.

    A file stands for itself. A folder stands for every file below it, sorted by name within each folder;
    hidden files and folders (a leading dot) are skipped, linked folders are followed once. Anything else
    with `*`, `?` or `[` is a glob (`**` crosses folders), sorted, whose folders are expanded in turn.
    Raises `UsageError` where an input does not exist or a folder or pattern yields nothing.
    """
    found: dict[str, str] = {}  # absolute path -> path as given
    for item in inputs:
        path = os.fspath(item)
        if os.path.lexists(path):
            matches = [path]
        elif glob.has_magic(path):
            matches = sorted(glob.glob(path, recursive=True))
        else:
            raise UsageError(f"{printable(path)}: no such file or folder; check the path")
        before = len(found)
        files = 0
        for match in matches:
            if is_pack(Path(match)):
                raise UsageError(
                    f"{printable(match)}: a pack, whose pictures are no files; give the folder it was made "
                    f"from, or measure on it with isopatch eval"
                )
            for file in _files_below(match) if os.path.isdir(match) else (match,):
                files += 1
                found.setdefault(os.path.abspath(file), file)
        if len(found) == before and files == 0:
            what = "holds no file that is not hidden" if os.path.isdir(path) else "matches no file"
            raise UsageError(f"{printable(path)}: {what}; give pictures, folders of pictures or patterns")
    return list(found.values())


def _files_below(folder: str) -> Iterator[str]:
    """Yield the files below a folder in name order; a folder reached twice through links is read once."""
    seen: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        path = pending.pop()
        if path != folder and not os.path.isdir(path):
            yield path
            continue
        try:
            status = os.stat(path)
            entries = sorted(entry for entry in os.listdir(path) if not entry.startswith("."))
        except OSError as error:
            raise UsageError(f"{printable(path)}: cannot list this folder: {error.strerror}") from None
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            pending.extend(os.path.join(path, entry) for entry in reversed(entries))
