"""Results as SVG plots, with leather."""

from pathlib import Path

import leather

from bench.results import Document
from bench.table import number


# The units that a plot shows, with the end of its file's name and its title.
_AXES = {
    "/s": ("rates", "per second"),
    "ms": ("times", "milliseconds"),
    "us": ("times", "microseconds"),
}

_WIDTH, _HEIGHT_PER_BAR, _HEIGHT_OF_REST = 960, 34, 130


def draw(run: Document, folder: Path) -> dict[str, list[str]]:
    """
    Draw each scenario's figures, one plot per unit, into *folder*.

    Return the names of the files of each scenario.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[str]] = {}
    for scenario in run["scenarios"]:
        figures = scenario.get("figures", [])
        for unit in dict.fromkeys(figure["unit"] for figure in figures):
            chosen = [figure for figure in figures if figure["unit"] == unit]
            if unit not in _AXES or len(chosen) < 2:  # noqa: PLR2004  Nothing to compare.
                continue
            name = f"{scenario['name']}-{_AXES[unit][0]}.svg"
            _draw_bars(chosen, _AXES[unit][1], folder / name)
            drawn.setdefault(scenario["name"], []).append(name)
    return drawn


def _draw_bars(figures: list[Document], unit: str, path: Path) -> None:
    """Draw the medians as bars; the range of the rounds is in the table."""
    chart = leather.Chart(f"median, {unit}")
    bars = [
        (figure["values"]["median"], f"{figure['name']}: {shown}")
        for figure in figures
        for shown in [number(figure["values"]["median"])]
    ]
    chart.add_bars(bars)
    height = _HEIGHT_OF_REST + _HEIGHT_PER_BAR * len(bars)
    chart.to_svg(str(path), width=_WIDTH, height=height)
