"""`isopatch data bench`: how many training pictures a second arrive, ours and the peers', on the same files.

Every loader prepares float32 batches on the CPU with the same settings: crop, flip, policy, normalise, erase;
no mixing, and each picture once (no repeated augmentation, which timm offers to several ranks alone). They
run in turn, one round each, with workers of their own; a round is timed after its first batches, when the
workers' stock of finished batches is as full as it stays.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isopatch.bench.data_files import picture_folder
from isopatch.bench.data_peers import PEERS
from isopatch.data.augment import AugmentSettings, TrainTransform
from isopatch.data.find import find_data
from isopatch.data.loader import TrainLoader
from isopatch.data.sampler import EpochSampler
from isopatch.data.source import ImageSource
from isopatch.data.sources.subset import without_left_out
from isopatch.data.workers import AHEAD
from isopatch.errors import UsageError
from isopatch.image.contract import InputContract
from isopatch.image.decode import MAX_PIXELS

# Opens a loader for one round: an endless (or long) iterator of batches (B, 3, H, W).
Opener = Callable[[int], AbstractContextManager[Iterator[Tensor]]]


@dataclass(frozen=True)
class LoaderSettings:
    """What all contenders are given. rounds: of each; pictures: timed in a round, at least."""

    augment: AugmentSettings
    contract: InputContract
    batch_size: int = 64
    workers: int = 2
    rounds: int = 5
    pictures: int = 1024

    @property
    def timed_batches(self) -> int:
        """Batches timed in a round."""
        return -(-self.pictures // self.batch_size)

    @property
    def first_batches(self) -> int:
        """Batches that are not timed: until every worker is as far ahead as it may be."""
        return (AHEAD + 1) * max(self.workers, 1)


def measure_loaders(
    source: str | Path, settings: LoaderSettings, *, peers: Sequence[str], against: str | Path | None = None
) -> dict[str, Any]:
    """Measure our loader and the peers' on the training pictures of `source`; JSON values.

    against: the data that the peers read, where it is not `source`; what is not a tree of class folders is
        written out as files for them first.
    `contenders` has the `images_per_second` of each: median, quartiles, all rounds. `ratio_to_best_peer`: the
    same of ours divided by the best peer's in each round.
    """
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        raise UsageError(f"--peers {unknown[0]}: there are {', '.join(PEERS)}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of this process, which normalises and erases; the workers have one anyway
    try:
        with picture_folder(against or source) if peers else nullcontext() as folder:
            ours = _training_pictures(source)
            openers: dict[str, Opener] = {"isopatch": lambda turn: our_batches(ours, settings, turn)}
            for peer in peers:
                assert folder is not None
                openers[peer] = PEERS[peer](folder, settings)
            rates = _in_turn(openers, settings)
    finally:
        torch.set_num_threads(threads)
    return _document(str(source), str(against or source), len(ours), settings, rates)


def our_batches(
    source: ImageSource, settings: LoaderSettings, turn: int
) -> AbstractContextManager[Iterator[Tensor]]:
    """Open our loader for one round; another turn, another order."""
    size = min(settings.batch_size, len(source))
    loader = TrainLoader(
        source,
        TrainTransform(settings.augment, settings.contract),
        EpochSampler(len(source), global_batch=size, data_seed=turn),
        workers=settings.workers,
        data_seed=turn,
        start=0,
        stop=settings.first_batches + settings.timed_batches + AHEAD * settings.workers,
    )

    @contextmanager
    def opened() -> Iterator[Iterator[Tensor]]:
        with loader:
            yield (batch.images for batch in loader)

    return opened()


def _training_pictures(source: str | Path) -> ImageSource:
    found = find_data(source, max_pixels=MAX_PIXELS)
    if found.train is None:
        raise UsageError(f"{source}: no training split")
    return without_left_out(found.train)


def _in_turn(openers: dict[str, Opener], settings: LoaderSettings) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in openers}
    for turn in range(settings.rounds):
        # Each round begins with another contender, so that none always follows the same one.
        names = list(openers)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            with openers[name](turn) as batches:
                rates[name].append(_rate(batches, settings))
    return rates


def _rate(batches: Iterator[Tensor], settings: LoaderSettings) -> float:
    for _ in range(settings.first_batches):
        next(batches)
    started = time.perf_counter()
    pictures = 0
    for _ in range(settings.timed_batches):
        images = next(batches)
        assert images.dtype == torch.float32 and images.shape[1] == 3, (images.dtype, images.shape)
        pictures += len(images)
        del images  # a loader may use its memory again
    return pictures / (time.perf_counter() - started)


def _document(
    source: str, against: str, pictures: int, settings: LoaderSettings, rates: dict[str, list[float]]
) -> dict[str, Any]:
    peers = {name: values for name, values in rates.items() if name != "isopatch"}
    contenders = {name: {"images_per_second": _spread(values)} for name, values in rates.items()}
    ratios = []
    if peers:
        best = [max(values) for values in zip(*peers.values(), strict=True)]
        ratios = [ours / other for ours, other in zip(rates["isopatch"], best, strict=True)]
    contract = settings.contract
    return {
        "data": source,
        "peers_read": against,
        "pictures": pictures,
        "size": [contract.height, contract.width],
        "batch_size": settings.batch_size,
        "workers": settings.workers,
        "rounds": settings.rounds,
        "pictures_per_round": settings.timed_batches * settings.batch_size,
        "contenders": contenders,
        "ratio_to_best_peer": _spread(ratios) if ratios else None,
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "median": round(statistics.median(values), 3),
        "quartiles": [round(quarters[0], 3), round(quarters[2], 3)],
        "all": [round(value, 3) for value in values],
    }


def render(document: dict[str, Any]) -> str:
    """Return the measurement as lines of text."""
    height, width = document["size"]
    lines = [
        f"{document['data']}: {document['pictures']:,} training pictures to {height}x{width}, batches of "
        f"{document['batch_size']}, {document['workers']} workers, {document['rounds']} rounds in turn"
    ]
    if document["peers_read"] != document["data"]:
        lines.append(f"peers read {document['peers_read']}")
    for name, contender in document["contenders"].items():
        rate = contender["images_per_second"]
        low, high = rate["quartiles"]
        lines.append(f"{name:<12}{rate['median']:8,.0f} images/s ({low:,.0f}-{high:,.0f})")
    ratio = document["ratio_to_best_peer"]
    if ratio is not None:
        low, high = ratio["quartiles"]
        lines.append(f"{ratio['median']:.2f} times the best peer ({low:.2f}-{high:.2f})")
    return "\n".join(lines)
