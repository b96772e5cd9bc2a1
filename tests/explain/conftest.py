"""What tests of explanations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from isopatch.explain.contract import Context
from isopatch.nn.classifier import Classifier


@pytest.fixture
def context() -> Callable[..., Context]:
    """Makes a context of a model."""

    def make(model: Classifier, **given: Any) -> Context:
        return Context(**{"model": model.eval(), "name": "it", "classes": (), **given})

    return make
