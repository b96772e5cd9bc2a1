"""`python -m isopatch.study.child VERB ...` is `isopatch VERB ...` that ends when its driver does.

The driver holds the other end of this process's standard input. When the driver is gone, however it ended,
the pipe closes, and the training is asked to stop as SIGTERM asks: it saves first. So nothing goes on for a
driver that does not exist, beside the next one.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def watch(descriptor: int) -> None:
    """Wait until the other end of a pipe is closed, then end this process as SIGTERM would."""
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the command line given after the module's name."""
    threading.Thread(target=watch, args=(sys.stdin.fileno(),), name="driver", daemon=True).start()
    sys.argv = ["isopatch", *sys.argv[1:]]
    runpy.run_module("isopatch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
