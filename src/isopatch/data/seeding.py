"""Seeds from positions, and a scope in which third-party code may draw from the global generators.

Everything random in the data layer is a function of (data_seed, position), so nothing about randomness has
to be saved. timm draws from `random` and `numpy.random`, torchvision from torch's default generator; inside
`restored_generators` they can be seeded per sample, and afterwards the three are as they were.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

_MASK32 = 0xFFFF_FFFF


def derive_seed(*parts: int | str) -> int:
    """Return a 64-bit seed, 0 <= seed < 2**64, that depends on every part, its type and its place.

    BLAKE2b rather than `hash`, which differs between processes; sums or xors of seeds would collide.
    """
    # int() so that a NumPy integer gives the seed of the Python one; repr() so that '1' differs from 1.
    text = ",".join(repr(part) if isinstance(part, str) else str(int(part)) for part in parts)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@contextmanager
def restored_generators() -> Iterator[Callable[[int], None]]:
    """Save the states of `random`, `numpy.random` and torch's CPU generator; restore them at the end.

    Yields `reseed(seed)`, which seeds all three (about 12 us) as often as needed within the scope.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    torch_state = torch.get_rng_state()
    try:
        yield _reseed
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the three global generators within the scope and restore them at its end."""
    with restored_generators() as reseed:
        reseed(seed)
        yield


def _reseed(seed: int) -> None:
    random.seed(seed)
    # random and numpy.random are the same Mersenne Twister, initialised the same way from the same words:
    # the third word keeps numpy's draws from repeating those of random.
    np.random.seed([seed & _MASK32, seed >> 32, 1])
    # Not torch.manual_seed: that also queues a seed for every accelerator (100 us, and never restored).
    torch.default_generator.manual_seed(seed)
