"""Results on stdout: as JSON, or in words."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any


def emit(arguments: argparse.Namespace, document: Any, text: Callable[[Any], str]) -> None:
    """Print a result on stdout: as JSON with --json, else in words."""
    print(json.dumps(document, indent=1, allow_nan=False) if arguments.json else text(document))
