"""`import isopatch` and the help are instant because they import nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "numpy", "PIL", "pyarrow", "matplotlib", "pydantic", "yaml", "rich")


def loaded_by(code: str) -> set[str]:
    """Return the heavy packages that a fresh interpreter has loaded after running `code`."""
    program = f"""
import json, sys
try:
{chr(10).join("    " + line for line in code.splitlines())}
except SystemExit:
    pass
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import isopatch\ndir(isopatch)\nisopatch.__version__",
        "from isopatch.cli import main\nmain(['--help'])",
        "from isopatch.cli import main\nmain(['eval', '--help'])",
        "from isopatch.cli import main\nmain(['convert', '--help'])",
        "from isopatch.cli import main\nmain(['study', 'run', '--help'])",
        "from isopatch.cli import main\nmain(['trian'])",
        "import isopatch\nisopatch.UsageError",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert loaded_by(code) == set()


def test_the_list_of_recipes_needs_no_torch() -> None:
    loaded = loaded_by("from isopatch.cli import main\nmain(['train', '--help'])")
    assert not loaded & {"torch", "torchvision", "timm"}


def test_the_list_of_models_needs_no_torch() -> None:
    loaded = loaded_by("from isopatch.cli import main\nmain(['models', 'list'])")
    assert not loaded & {"torch", "torchvision", "timm"}


def test_the_list_of_studies_and_how_far_one_is_need_no_torch() -> None:
    loaded = loaded_by("from isopatch.cli import main\nmain(['study', 'list'])\nimport isopatch.study.state")
    assert not loaded & {"torch", "torchvision", "timm"}


def test_using_the_library_needs_torch_but_neither_torchvision_nor_timm() -> None:
    """Also the control: a heavy import would be noticed."""
    loaded = loaded_by(
        "import isopatch\nisopatch.create_model, isopatch.Predictor, isopatch.load, isopatch.train"
    )
    assert "torch" in loaded
    assert not loaded & {"torchvision", "timm"}


def test_public_names_exist_and_others_do_not() -> None:
    import isopatch

    assert all(getattr(isopatch, name) is not None for name in isopatch.__all__)
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        _ = isopatch.creat_model
