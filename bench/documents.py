"""Writes the results of a run into ``docs/explanation/``."""

import contextlib
from pathlib import Path

from bench import results, scale
from bench.plots import draw
from bench.table import markdown, number
from dev.anvil import ROOT


_FOLDER = ROOT / "docs" / "explanation"
_BEGIN = "<!-- results: written by `make bench` -->"
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
    _update(_FOLDER / "performance.md", markdown(merged, plots))
    with contextlib.suppress(ValueError):  # A part of the scenarios was measured.
        per_machine = scale.measured_rate(merged)
        table = list(scale.rows(scale.LOADS, per_machine))
        text = f"One machine: {number(per_machine)} refunds a second.\n\n"
        _update(_FOLDER / "scale.md", text + scale.markdown(table))


def _update(page: Path, text: str) -> None:
    before = page.read_text(encoding="utf-8")
    page.write_text(insert(before, text), encoding="utf-8")


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
