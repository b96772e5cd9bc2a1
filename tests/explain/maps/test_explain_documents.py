"""Every map has its page, and the pages say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isopatch.explain.options import OPTIONS
from isopatch.explain.randomised import MOST_ALIKE, SHUFFLES
from isopatch.explain.scores import MOST_CELLS, ORDERS, STEPS
from isopatch.explain.table import EXPLANATIONS

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "explain.md").read_text()


@pytest.mark.parametrize("explanation", EXPLANATIONS, ids=lambda explanation: explanation.name)
def test_every_map_has_a_page_with_its_four_parts(explanation) -> None:
    text = (DOCS / "explain" / f"{explanation.name}.md").read_text()
    assert text.startswith(f"# {explanation.name}\n")
    for part in ("What it asks.", "How it is computed.", "How to read it.", "What misleads."):
        assert f"**{part}**" in text
    assert f"[{explanation.name}](explain/{explanation.name}.md) | {explanation.question} |" in PAGE
    for paper in re.findall(r"[A-Z]\w+ (?:and \w+|et al\.) \d{4}", explanation.source):
        assert paper in text.replace("\n", " "), paper


def test_every_option_stands_in_the_table_with_its_default() -> None:
    for name, option in OPTIONS.items():
        shown = str(option.default).lower() if isinstance(option.default, bool) else f"{option.default}"
        shown = "0" if shown == "0.0" else shown
        assert f"| `--{name.replace('_', '-')}` | {shown} |" in PAGE, name


def test_the_limits_of_the_checks_are_those_of_the_code() -> None:
    text = (DOCS / "explain" / "checks.md").read_text()
    assert f"{ORDERS} random orders" in text and f"best of {ORDERS + 1}" in text
    assert f"At most {STEPS} steps" in text and f"finer than {MOST_CELLS} x {MOST_CELLS}" in text
    assert f"**Limit.** {MOST_ALIKE}:" in text and SHUFFLES == 3 and "three copies" in text


def test_links_from_the_pages_of_maps_lead_somewhere() -> None:
    for page in (DOCS / "explain").glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
