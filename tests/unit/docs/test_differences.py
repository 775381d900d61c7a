"""Each difference between ledger and chain is explained: on a page, by the command."""

import re
from pathlib import Path

from api.extras.books.entries import Code
from api.views.codes import load_codes


ROOT = Path(__file__).resolve().parents[3]


def test_each_difference_is_explained() -> None:
    """reconcile.md and `hotwallet explain-code` have exactly the codes that exist."""
    page = (ROOT / "docs/how-to/reconcile.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| code \| meaning .*\n\|[- |]+\n((?:\|.*\n)+)", page)
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE))
    explained = {each["code"] for each in load_codes() if each["kind"] == "difference"}

    assert documented == explained == {str(code) for code in Code}
