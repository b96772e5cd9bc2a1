"""Nothing in the sources can run a stranger's code: no pickle, no unsafe loaders, no shell, no eval."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "isopatch"

MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
CALLS = (
    "eval",
    "exec",
    "compile",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
)
CALLS_WITH_END = (".extractall", "distributed.checkpoint.load", "dcp.load", "pandas.read_pickle")


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for an attribute chain; an unknown head becomes `?`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"


def unsafe(text: str) -> list[str]:
    """Return "line: what" for each unsafe construct. The name of pickle's error may be used, to catch it."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name != "pickle" or alias.asname]
            found += [f"{node.lineno}: import {name}" for name in names if name.split(".")[0] in MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(f"{node.lineno}: from {node.module} import ...")
        if (
            isinstance(node, ast.Attribute)
            and dotted(node.value) == "pickle"
            and node.attr != "UnpicklingError"
        ):
            found.append(f"{node.lineno}: pickle.{node.attr}")
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in CALLS or name.endswith(CALLS_WITH_END):
            found.append(f"{node.lineno}: {name}")
        if name == "torch.load" and not _is(keywords.get("weights_only"), True):
            found.append(f"{node.lineno}: torch.load without weights_only=True")
        if _is(keywords.get("weights_only"), False):
            found.append(f"{node.lineno}: weights_only=False")
        if "allow_pickle" in keywords and not _is(keywords["allow_pickle"], False):
            found.append(f"{node.lineno}: allow_pickle")
        if "shell" in keywords and not _is(keywords["shell"], False):
            found.append(f"{node.lineno}: shell")
        if name in ("np.load", "numpy.load") and not _is(keywords.get("allow_pickle"), False):
            found.append(f"{node.lineno}: np.load without allow_pickle=False")
    return found


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_source_file_has_an_unsafe_construct() -> None:
    found = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line in unsafe(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\npickle.loads(b'')",
        "import pickle as p",
        "from pickle import loads",
        "from joblib import load",
        "def f():\n    import dill",
        "torch.load('x.pth')",
        "torch.load('x.pth', weights_only=False)",
        "torch.load('x.pth', weights_only=flag)",
        "np.load('x.npy')",
        "np.load('x.npy', allow_pickle=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "eval('1')",
        "exec('x = 1')",
        "subprocess.run('ls', shell=True)",
        "os.system('ls')",
        "tarfile.open('x').extractall()",
        "torch.distributed.checkpoint.load(state)",
    ],
)
def test_each_unsafe_construct_is_found(text: str) -> None:
    assert unsafe(text)


@pytest.mark.parametrize(
    "text",
    [
        "torch.load('x.pth', weights_only=True, mmap=True)",
        "import pickle\ntry:\n    f()\nexcept pickle.UnpicklingError:\n    raise",
        "np.load('x.npy', allow_pickle=False)",
        "yaml.safe_load(text)",
        "subprocess.run(['ls'])",
        "model.eval()",
        "isopatch.load('run')",
        "re.compile('a')",
    ],
)
def test_the_safe_forms_pass(text: str) -> None:
    assert unsafe(text) == []
