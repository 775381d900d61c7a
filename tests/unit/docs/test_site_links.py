"""Links that leave ``docs/`` work in the repository and on the site."""

import re
from pathlib import Path

import pytest

from dev.mkdocs_hook import OUTSIDE, rewrite_links


ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
CLIENT = "clients/python/README.md"


def test_pages_outside_are_on_the_site() -> None:
    """A link to another file of the repository would lead nowhere on the site."""
    found = {
        (page.parent / target).resolve().relative_to(ROOT).as_posix()
        for page in DOCS.rglob("*.md")
        for target in re.findall(
            r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")
        )
    }

    assert {each for each in found if not each.startswith("docs/")} == set(OUTSIDE)


@pytest.mark.parametrize(
    ("page", "text", "on_the_site"),
    [
        ("README.md", "[c](../CONTRIBUTING.md)", "[c](CONTRIBUTING.md)"),
        ("how-to/a.md", "[c](../../CONTRIBUTING.md#x)", "[c](../CONTRIBUTING.md#x)"),
        ("how-to/a.md", "[c](../adr/c.md#d), [d](#d)", "[c](../adr/c.md#d), [d](#d)"),
        ("how-to/a.md", "[e](https://e.example)", "[e](https://e.example)"),
        ("CONTRIBUTING.md", "[a](docs/how-to/a.md)", "[a](how-to/a.md)"),
        ("CONTRIBUTING.md", "[`x.py`](signer/x.py)", "`x.py`"),
        (CLIENT, "[a](../../docs/how-to/a.md)", "[a](../../how-to/a.md)"),
        (CLIENT, "[o](../openapi.json)", "o"),
    ],
)
def test_a_link_on_the_site(page: str, text: str, on_the_site: str) -> None:
    """It leads to the same page; its path has no ``docs/`` there."""
    assert rewrite_links(text, page) == on_the_site
