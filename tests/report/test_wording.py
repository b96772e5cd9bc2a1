"""Numbers as people read them."""

from __future__ import annotations

import pytest

from isopatch.report.wording import rate


@pytest.mark.parametrize(
    ("value", "text"),
    [(31012.4, "31,012"), (1000.0, "1,000"), (79.98, "79.98"), (7.62123, "7.621"), (0.5, "0.5")],
)
def test_a_rate_is_never_in_powers_of_ten(value: float, text: str) -> None:
    assert rate(value) == text
