"""Work done ahead of time by loader processes, delivered in order, without surprises when something dies.

torch's DataLoader moves the tensors; around it: signals meant for the parent do not reach the workers, they
die with their parent, a user's error arrives as itself, a killed worker gives one clear line.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import logging
import math
import mmap
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from isopatch.errors import IsopatchError

T = TypeVar("T")
log = logging.getLogger("isopatch")

AHEAD = 2  # results each worker may have ready before the first of them is taken

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def load_in_order(load: Callable[[int], T], numbers: range, *, workers: int) -> Generator[T, None, None]:
    """Yield `load(n)` for every n of `numbers`, in order; computed by `workers` processes, 0: right here.

    Each worker is up to `AHEAD` results ahead. Closing the generator, or leaving it by an error, ends every
    worker. `IsopatchError` raised by `load` arrives unchanged in its turn; a worker that was killed raises
    `IsopatchError` within seconds. Workers fork from this process on Linux and share its memory.
    """
    if workers == 0 or len(numbers) == 0:
        for number in numbers:
            yield load(number)
        return
    crew = _Crew(load, numbers, min(workers, len(numbers)))
    try:
        for _ in numbers:
            yield crew.next()
    finally:
        crew.close()


def shared_places(shape: tuple[int, ...], *, workers: int) -> NDArray[np.uint8] | None:
    """Return memory for results of `load_in_order`, (places, *shape) uint8: `load(n)` fills place n % places.

    Written by the workers, read here, and used again: no copy, no new pages, nothing in /dev/shm. A place is
    free again when the next result is asked for. None where workers do not inherit memory, or there are none.
    """
    if workers == 0 or sys.platform != "linux":
        return None
    places = AHEAD * workers + 1
    size = places * math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=np.uint8, count=size).reshape(places, *shape)


@dataclass(frozen=True)
class _Failure:
    """An error on its way from a worker: rebuilt from its parts, whatever its constructor takes."""

    kind: type[IsopatchError]
    arguments: tuple[Any, ...]
    state: dict[str, Any]

    def error(self) -> IsopatchError:
        error = self.kind.__new__(self.kind, *self.arguments)
        error.__dict__.update(self.state)
        return error


@dataclass(frozen=True)
class _Unshared:
    """A tensor that found no room in shared memory and is copied through a pipe."""

    values: NDArray[Any]


class _Loads(Dataset[Any]):
    """`load` in the shape DataLoader wants."""

    def __init__(self, load: Callable[[int], Any]) -> None:
        self._load = load

    def __getitem__(self, number: int) -> Any:
        try:
            result = self._load(number)
        except IsopatchError as error:
            return _Failure(type(error), error.args, dict(vars(error)))
        return _shared(result) if isinstance(result, torch.Tensor) else result


def _shared(tensor: torch.Tensor) -> torch.Tensor | _Unshared:
    """Move a tensor to shared memory here, where a failure can be answered.

    DataLoader does it in a thread that loses the tensor when there is no room, and the parent waits for
    ever: a container's 64 MB of /dev/shm are less than one batch of 128 pictures at 224 pixels.
    """
    try:
        tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return _Unshared(tensor.numpy())
    return tensor


class _Crew:
    """The running worker processes of one `load_in_order`."""

    def __init__(self, load: Callable[[int], Any], numbers: range, workers: int) -> None:
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = set(multiprocessing.active_children())
        with _quiet_start(in_main_thread):
            loader = DataLoader(
                _Loads(load),
                batch_size=None,
                sampler=numbers,
                num_workers=workers,
                prefetch_factor=AHEAD,
                collate_fn=_unchanged,
                worker_init_fn=functools.partial(_start_worker, os.getpid(), in_main_thread),
                generator=torch.Generator(),  # its own: the default one would be advanced by the loader
                multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
            )
            self._results: Iterator[Any] | None = iter(loader)
        self._processes = [child for child in multiprocessing.active_children() if child not in before]
        self._warned = False
        # multiprocessing waits at exit for children that ignore SIGTERM; this runs before it does.
        self._at_exit = functools.partial(_kill, self._processes)
        atexit.register(self._at_exit)

    def next(self) -> Any:
        """Return the next result; raise the error it stands for."""
        assert self._results is not None
        dead: list[multiprocessing.process.BaseProcess] = []
        try:
            result = next(self._results)
        except (RuntimeError, OSError, EOFError):  # EOF and OSError: it died while handing over a tensor
            dead = _died(self._processes)
            if not dead:
                raise
        if dead:  # outside the handler, so that no traceback keeps the iterator alive
            raise IsopatchError(_obituary(dead[0]))
        if isinstance(result, _Failure):
            raise result.error()
        if isinstance(result, _Unshared):
            if not self._warned:
                log.warning(
                    "shared memory (/dev/shm) lacks room for batches of %.0f MB from %d workers: they take a "
                    "slower way; enlarge it (docker run --shm-size) or use fewer workers",
                    result.values.nbytes / 1e6,
                    len(self._processes),
                )
                self._warned = True
            return torch.from_numpy(result.values)
        return result

    def close(self) -> None:
        """End the workers: asked first, killed if they are still there after that."""
        self._results = None  # the last reference: DataLoader's iterator ends its workers
        _kill(self._processes)
        atexit.unregister(self._at_exit)


@contextmanager
def _quiet_start(in_main_thread: bool) -> Iterator[None]:
    """Fork in peace: stop signals held back, the SIGCHLD handler left as it was, two warnings kept quiet.

    A signal between fork and `_start_worker` would meet the parent's handler in the child. DataLoader's
    SIGCHLD handler raises wherever the main thread happens to be, in the middle of a checkpoint for one; a
    dead worker is noticed by `next` all the same, within 5 s. Both warnings are about what is meant: more
    workers than cores, and (Python >= 3.12) forking beside threads, whose locks a worker never takes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
        if sys.platform == "win32":
            yield
            return
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        former = signal.getsignal(signal.SIGCHLD)
        try:
            yield
        finally:
            if in_main_thread:
                signal.signal(signal.SIGCHLD, former if former is not None else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _start_worker(parent: int, in_main_thread: bool, worker_id: int) -> None:
    """First thing in a worker: the parent answers signals, and no worker outlives it.

    A whole process group gets Ctrl-C, and a scheduler's SIGTERM: the parent then still needs the batch it
    waits for, to finish the step and save.
    """
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "win32":
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    # The kernel sends it when the *thread* that forked ends, so only the main thread's workers ask for it;
    # others notice within DataLoader's 5 s.
    if sys.platform == "linux" and in_main_thread:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _died(processes: list[multiprocessing.process.BaseProcess]) -> list[multiprocessing.process.BaseProcess]:
    """Those that did not end by themselves; DataLoader may have asked the others to leave."""
    ended = multiprocessing.connection.wait([process.sentinel for process in processes], timeout=0.5)
    for process in processes:
        if process.sentinel in ended:
            process.join()  # its pipes close a moment before its exit code is there
    return [process for process in processes if process.exitcode not in (None, 0)]


def _kill(processes: list[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


def _obituary(process: multiprocessing.process.BaseProcess) -> str:
    code = process.exitcode or 0
    end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    return (
        f"a data loader process (pid {process.pid}) {end}; most often memory or shared memory (/dev/shm) "
        "ran out: use data.workers 0 or fewer workers, or a smaller batch"
    )


def _unchanged(result: Any) -> Any:
    return result
