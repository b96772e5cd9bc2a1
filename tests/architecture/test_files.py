"""Files stay small enough to read: none above 400 lines, in src and in tests."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_LINES = 400


def too_long(files: list[Path]) -> list[str]:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in files}
    return [f"{path.name}: {length} lines" for path, length in lengths.items() if length > MOST_LINES]


def test_no_source_file_is_longer_than_400_lines() -> None:
    assert too_long(sorted((ROOT / "src").rglob("*.py"))) == []


def test_a_longer_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("pass\n" * (MOST_LINES + 1))
    assert too_long([path]) == ["long.py: 401 lines"]


def test_every_source_file_says_what_it_is() -> None:
    silent = [
        path.name
        for path in sorted((ROOT / "src").rglob("*.py"))
        if not path.read_text(encoding="utf-8").lstrip().startswith(('"""', 'r"""'))
    ]
    assert silent == []
