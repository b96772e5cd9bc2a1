"""Studies: declared sets of runs that differ in stated factors only. Names are loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "load_study": "isopatch.study.load",
    "plan": "isopatch.study.planning",
    "run": "isopatch.study.driver",
    "status": "isopatch.study.state",
    "table": "isopatch.study.rows",
    "analyse": "isopatch.study.analyse",
    "query": "isopatch.study.query",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'isopatch.study' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
