"""Small studies on the built-in digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from isopatch.study.load import load_study
from isopatch.study.schema import Study

BASE = {
    "data": "digits",
    "recipe": "small",
    "model": "bench",
    "model.dim": 16,
    "model.depth": 2,
    "model.patch_size": 2,
    "model.image_size": 8,
    "model.num_heads": 1,
    "batch_size": 64,
    "threads": 1,
}
CONVMIXER = {
    **{key: value for key, value in BASE.items() if key != "model.num_heads"},
    "model": "convmixer",
    "model.kernel_size": 3,
}
Declare = Callable[..., Study]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    """Write a study.yaml with these keys over a small usable one, and load it; None leaves a key out.

    convmixers: of ConvMixers; otherwise of the parametric architecture.
    """

    def make(**keys: Any) -> Study:
        convmixers = keys.pop("convmixers", False)
        base = {**(CONVMIXER if convmixers else BASE), **keys.pop("base", {})}
        document = {"name": "try", "question": "?", "base": base, "equal": {"epochs": 1}, "seeds": 2, **keys}
        path = tmp_path / "declared.yaml"
        kept = {key: value for key, value in document.items() if value is not None}
        path.write_text(yaml.safe_dump(kept, sort_keys=False))
        return load_study(path)

    return make
