"""What cannot be written as source is refused, and which architectures can."""

from __future__ import annotations

from dataclasses import replace

import pytest

from isopatch.errors import IsopatchError, UsageError
from isopatch.export.source.render import WRAPPED, architectures, render_source
from isopatch.models.architectures import MODULES
from isopatch.models.spec import make_spec

VIT = {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "image_size": [12, 20], "num_classes": 5}


def test_every_architecture_of_isopatch_has_a_template() -> None:
    assert set(architectures()) == set(MODULES) - set(WRAPPED)


@pytest.mark.parametrize("library", WRAPPED)
def test_models_of_other_libraries_are_refused_for_their_source_is_theirs(library: str) -> None:
    spec = replace(make_spec("vit", VIT), architecture=library)
    with pytest.raises(
        UsageError, match=f"a model of {library} cannot be written as source: its modules are"
    ):
        render_source(spec)


def test_an_architecture_without_a_template_is_refused_with_those_that_have_one() -> None:
    spec = replace(make_spec("vit", VIT), architecture="perceiver")
    with pytest.raises(UsageError, match=r"perceiver cannot be written as source yet; .*convmixer.*, vit"):
        render_source(spec)
    assert not [name for name in architectures() if name.startswith("_")]


def test_a_stored_description_puts_no_text_of_its_own_into_the_file() -> None:
    spec = make_spec("vit", VIT)
    attack = 'vit"""\nimport os\n"""'
    with pytest.raises(UsageError, match="unknown model"):
        render_source(replace(spec, name=attack))
    for change in (
        {"interpolation": attack},
        {"resize": attack},
        {"mean": (attack, 0.5, 0.5)},
        {"mean": 0.5},
    ):
        hostile = replace(spec.input)
        for key, value in change.items():
            object.__setattr__(hostile, key, value)
        with pytest.raises(IsopatchError, match="input is described by impossible values"):
            render_source(replace(spec, input=hostile))
    with pytest.raises(UsageError, match="activation"):
        render_source(replace(spec, arguments={**spec.arguments, "activation": attack}))
