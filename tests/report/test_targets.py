"""A report replaces a report, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from isopatch.errors import UsageError
from isopatch.report.compare_page import write_comparison
from isopatch.report.render import GENERATOR, environment
from isopatch.report.run_page import write_run_report

RunMaker = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("no_plots")


def writers(run: Path) -> tuple[Callable[[Path], Path], ...]:
    return (lambda out: write_run_report(run, out)), (lambda out: write_comparison([run, run], out))


def test_what_is_no_page_of_ours_is_left_as_it_is(make_run: RunMaker, tmp_path: Path) -> None:
    run = make_run(steps=2, epochs=1)
    thesis = tmp_path / "thesis.html"
    thesis.write_text("<!doctype html><title>My thesis</title>")
    late = tmp_path / "late.html"  # speaks of our tag in its text
    late.write_bytes(b"<!doctype html>" + b"x" * 5000 + GENERATOR)
    report = tmp_path / "report.html"  # our name, outside a run
    report.write_text("mine")
    (tmp_path / "folder.html").mkdir()
    os.mkfifo(tmp_path / "pipe.html")
    for write in writers(run):
        for path in (thesis, late, report, tmp_path / "folder.html", tmp_path / "pipe.html"):
            before = path.read_bytes() if path.is_file() else None
            with pytest.raises(UsageError, match="exists and is no isopatch report; choose another") as error:
                write(path)
            assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
            assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("name", ["thesis.doc", "config.yaml", "html", "page.html.bak", ".html"])
def test_a_report_is_called_html(make_run: RunMaker, name: str) -> None:
    run = make_run(steps=2, epochs=1)
    for write in writers(run):
        before = (run / name).read_bytes() if (run / name).exists() else None
        with pytest.raises(UsageError, match=r"give a name that ends in \.html"):
            write(run / name)
        assert before == ((run / name).read_bytes() if (run / name).exists() else None)


def test_a_page_of_ours_is_replaced(make_run: RunMaker, tmp_path: Path) -> None:
    run = make_run(steps=2, epochs=1)
    out = tmp_path / "new" / "Page.HTML"
    for write in (*writers(run), *writers(run)):
        assert write(out) == out
    for name, write in zip(("report.html", "comparison.html"), writers(run), strict=True):
        (run / name).write_text("torn")  # in a run folder the name is enough
        assert GENERATOR in write(run / name).read_bytes()


def test_the_tag_is_in_the_frame_of_every_page() -> None:
    source, _, _ = environment().loader.get_source(environment(), "base.html.j2")  # type: ignore[union-attr]
    assert GENERATOR.decode() in source
