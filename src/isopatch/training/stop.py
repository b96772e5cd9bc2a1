"""Being asked to stop: signals and the time limit. Handlers set a flag; the loop decides when to look."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from isopatch.errors import EXIT_SAVED_EARLY, EXIT_SIGINT, EXIT_SIGTERM

_EXIT_CODES = {signal.SIGINT: EXIT_SIGINT, signal.SIGTERM: EXIT_SIGTERM, signal.SIGUSR1: EXIT_SAVED_EARLY}


class StopRequest:
    """Set by SIGINT, SIGTERM, SIGUSR1 or the time limit; read by the training loop.

    Until `defer` is called there is nothing to save, so a signal ends the process (SystemExit) right away.
    Afterwards it only sets the flag; a second SIGINT ends the process at once with code 130.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._signal: signal.Signals | None = None
        self._deferring = False

    def defer(self) -> None:
        """From now on signals wait for the loop, which saves first."""
        self._deferring = True

    @property
    def exit_code(self) -> int | None:
        """The exit code that goes with the request, or None while there is none."""
        if self._signal is not None:
            return _EXIT_CODES[self._signal]
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return EXIT_SAVED_EARLY
        return None

    @property
    def reason(self) -> str:
        """Why, for messages."""
        return self._signal.name if self._signal is not None else "the time limit"

    def __bool__(self) -> bool:
        return self.exit_code is not None

    def __call__(self) -> bool:
        """Whether a stop was requested: the callable that evaluation polls."""
        return bool(self)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal == signal.SIGINT:
            os._exit(EXIT_SIGINT)
        self._signal = signal.Signals(number)
        if not self._deferring:
            raise SystemExit(_EXIT_CODES[self._signal])

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Install the handlers; restore the former ones afterwards. Outside the main thread: no handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, self._note) for number in _EXIT_CODES}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
