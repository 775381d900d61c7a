"""The generated pages of the reference agree with the code."""

import pytest

from dev.reference_pages import PAGES, ROOT


@pytest.mark.parametrize("path", PAGES)
def test_the_page_is_up_to_date(path: str) -> None:
    """`python -m dev.reference_pages` would change nothing."""
    assert (ROOT / path).read_text(encoding="utf-8") == PAGES[path]()
