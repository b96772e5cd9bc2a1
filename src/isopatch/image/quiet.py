"""Silence for what a decoder says on the side, safe with several threads decoding at once."""

from __future__ import annotations

import logging
import threading
import warnings
from types import TracebackType


class QuietPillow:
    """While at least one decode runs, warnings and log lines of Pillow's own modules are dropped.

    They name no file, and whatever matters arrives as an exception. `warnings.catch_warnings` saves and
    restores the whole filter list, which goes wrong when two threads overlap; here one filter, which names
    Pillow's modules only, is added by the first decode and removed by the last.
    What libtiff itself prints to the process's standard error is beyond Python's reach.
    """

    def __init__(self) -> None:
        """Nothing is changed until the first `with`."""
        self._lock = threading.Lock()
        self._running = 0
        self._filter: object = None
        self._logger = logging.getLogger("PIL")
        self._propagate = True
        self._sink = logging.NullHandler()  # without any handler, logging falls back to stderr

    def __enter__(self) -> None:
        """Begin to drop them."""
        with self._lock:
            self._running += 1
            if self._running == 1:
                warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
                self._filter = warnings.filters[0]
                self._propagate = self._logger.propagate
                self._logger.propagate = False
                self._logger.addHandler(self._sink)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let them through again when no other thread decodes."""
        with self._lock:
            self._running -= 1
            if self._running == 0:
                if self._filter in warnings.filters:
                    warnings.filters.remove(self._filter)  # type: ignore[attr-defined]
                self._logger.propagate = self._propagate
                self._logger.removeHandler(self._sink)
