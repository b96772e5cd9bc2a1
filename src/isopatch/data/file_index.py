"""A list of many file names in two arrays: about the length of a name plus 8 bytes for each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class FileIndex:
    """Names as bytes, end to end in one buffer.

    Not a list of objects: those cost 100 bytes each and are copied page by page into every worker process,
    because counting references writes to them.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        """Copy `names`, in their order."""
        names = list(names)
        self._offsets: NDArray[np.int64] = np.zeros(len(names) + 1, dtype=np.int64)
        np.cumsum([len(name) for name in names], out=self._offsets[1:])
        self._buffer: NDArray[np.uint8] = np.frombuffer(b"".join(names), dtype=np.uint8)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        """Return name number `index`."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._buffer[self._offsets[index] : self._offsets[index + 1]].tobytes()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._buffer.nbytes + self._offsets.nbytes
