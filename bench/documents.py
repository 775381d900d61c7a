"""Writes the results of a run into ``docs/explanation/performance.md``."""

from bench import results
from bench.plots import draw
from bench.table import markdown
from dev.anvil import ROOT


PAGE = ROOT / "docs" / "explanation" / "performance.md"

_BEGIN = "<!-- results: written by `make bench` -->"
_END = "<!-- end of the results -->"


def update_documents(run: results.Document) -> None:
    """Merge *run* into the stored results; write them, the tables and the plots."""
    merged = results.merge(results.read(results.FILE), run)
    results.write(results.FILE, merged)
    folder = results.FILE.parent
    plots = {
        scenario: [f"{folder.name}/{name}" for name in names]
        for scenario, names in draw(merged, folder).items()
    }
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(insert(page, markdown(merged, plots)), encoding="utf-8")


def insert(page: str, text: str) -> str:
    """
    Return *page* with *text* between its two markers.

    Raises:
        ValueError: The page does not have both markers, in order.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {_BEGIN} and {_END}")
    return f"{before}{begin}\n\n{text}\n{end}{after}"
