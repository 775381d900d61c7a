"""Writes the results of a run into ``docs/explanation/performance.md``."""

import contextlib
from pathlib import Path

from bench import results, scale, sizing
from bench.plots import draw
from bench.table import markdown, of_page
from dev.anvil import ROOT


_FOLDER = ROOT / "docs" / "explanation"
PERFORMANCE = _FOLDER / "performance.md"
RESULTS = "<!-- results: written by `make bench` -->"
SCALE = "<!-- scale: written by `make bench` -->"
SIZES = "<!-- sizes: written by `make bench` -->"
FLAMES = "<!-- flames: written by `make flame-graph` -->"
_END = "<!-- end of the results -->"


def update_documents(run: results.Document) -> None:
    """Merge *run* into the stored results; write them, the tables and plots."""
    merged = results.merge(results.read(results.FILE), run)
    results.write(results.FILE, merged)
    folder, shown = results.FILE.parent, of_page(merged)
    plots = {
        scenario: [f"{folder.name}/{name}" for name in names]
        for scenario, names in draw(shown, folder).items()
    }
    update_page(PERFORMANCE, RESULTS, markdown(shown, plots))
    # A part of the scenarios may not have been measured yet.
    with contextlib.suppress(ValueError):
        update_page(PERFORMANCE, SCALE, scale.describe(merged))
    with contextlib.suppress(ValueError):
        update_page(PERFORMANCE, SIZES, sizing.describe(merged))


def update_page(page: Path, opening: str, text: str) -> None:
    """``insert`` *text* into the file *page*."""
    before = page.read_text(encoding="utf-8")
    page.write_text(insert(before, opening, text), encoding="utf-8")


def insert(page: str, opening: str, text: str) -> str:
    """
    Return *page* with *text* between the line *opening* and the end of the results.

    Raises:
        ValueError: The page does not have both lines, in order.
    """
    before, begin, rest = page.partition(opening)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {opening} and {_END}")
    return f"{before}{begin}\n\n{text}\n{end}{after}"
