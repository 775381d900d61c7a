"""Writes the results of a run into ``docs/explanation/``."""

import contextlib
from pathlib import Path

from bench import results, scale
from bench.plots import draw
from bench.table import markdown, number
from dev.anvil import ROOT


_FOLDER = ROOT / "docs" / "explanation"
PERFORMANCE, SCALE = _FOLDER / "performance.md", _FOLDER / "scale.md"
_END = "<!-- end of the results -->"


def update_documents(run: results.Document) -> None:
    """Merge *run* into the stored results; write them, the tables and plots."""
    merged = results.merge(results.read(results.FILE), run)
    results.write(results.FILE, merged)
    folder = results.FILE.parent
    plots = {
        scenario: [f"{folder.name}/{name}" for name in names]
        for scenario, names in draw(merged, folder).items()
    }
    update_page(PERFORMANCE, markdown(merged, plots))
    with contextlib.suppress(ValueError):  # A part of the scenarios was measured.
        per_machine = scale.measured_rate(merged)
        table = list(scale.rows(scale.LOADS, per_machine))
        text = f"One machine: {number(per_machine)} refunds a second.\n\n"
        update_page(SCALE, text + scale.markdown(table))


def update_page(page: Path, text: str, command: str = "make bench") -> None:
    """``insert`` *text* into the file *page*."""
    before = page.read_text(encoding="utf-8")
    page.write_text(insert(before, text, command), encoding="utf-8")


def insert(page: str, text: str, command: str = "make bench") -> str:
    """
    Return *page* with *text* in the place of what *command* wrote there before.

    Raises:
        ValueError: The page does not have the two markers of it, in order.
    """
    opening = f"<!-- results: written by `{command}` -->"
    before, begin, rest = page.partition(opening)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {opening} and {_END}")
    return f"{before}{begin}\n\n{text}\n{end}{after}"
