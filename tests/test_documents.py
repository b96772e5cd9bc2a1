"""The commands of README and docs run as they stand, in order, in an empty folder with pictures."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from isopatch import cli
from isopatch.data.open import open_data

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"<!-- commands:begin.*?-->\n```sh\n(.*?)```\n<!-- commands:end -->", re.S)


def commands(page):
    lines = [
        line.split(" #")[0].strip()
        for block in BLOCK.findall(page.read_text())
        for line in block.splitlines()
    ]
    return [line for line in lines if line]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two classes of digits, enlarged, as a folder of pictures with the three splits."""
    source = open_data("digits", val_fraction=0.0).train
    for split, start, count in (("train", 0, 24), ("val", 300, 6), ("test", 400, 6)):
        for label, name in ((0, "zero"), (1, "one")):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            members = [i for i in range(start, len(source)) if source.labels[i] == label][:count]
            for index in members:
                source.read(index).resize((32, 32)).save(folder / f"{index}.png")
    (tmp_path / "new-pictures").mkdir()
    for number in range(3):
        source.read(number).resize((32, 32)).save(tmp_path / "new-pictures" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_page_runs(page, pictures, capfd):
    for line in commands(page):
        program, *arguments = shlex.split(line)
        assert program == "isopatch", line
        assert cli.main(arguments) == 0, f"{page.name}: {line}\n{capfd.readouterr().err}"


@pytest.mark.parametrize(("page", "at_least"), [("python.md", 3), ("dense.md", 2), ("kernels.md", 1)])
def test_the_python_of_the_page_runs(page, at_least, pictures):
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) >= at_least
    exec("\n".join(blocks), {})


def test_the_pages_have_commands_to_test():
    assert sum(len(commands(page)) for page in PAGES) >= 20


def test_links_between_the_pages_lead_somewhere():
    for page in [*PAGES, *(ROOT / "docs").glob("*/*.md"), *(ROOT / "results").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_table_of_measurements_is_made_from_the_result_files():
    check = [sys.executable, str(ROOT / "tools" / "readme_results.py"), "--check"]
    assert subprocess.run(check, check=False).returncode == 0, "run python tools/readme_results.py"


def test_the_page_of_distillation_is_made_from_the_result_files():
    check = [sys.executable, str(ROOT / "tools" / "distillation_table.py"), "--check"]
    assert subprocess.run(check, check=False).returncode == 0, "run python tools/distillation_table.py"


def test_the_page_of_what_models_look_like_inside_is_made_from_its_result_file():
    check = [sys.executable, str(ROOT / "tools" / "inside_table.py"), "--check"]
    assert subprocess.run(check, check=False).returncode == 0, "run python tools/inside_table.py"


def test_the_page_of_parity_is_made_from_the_result_files():
    check = [sys.executable, str(ROOT / "tools" / "parity_table.py"), "--check"]
    assert subprocess.run(check, check=False).returncode == 0, "run python tools/parity_table.py"
