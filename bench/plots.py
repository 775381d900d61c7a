"""Results as SVG plots, with pygal."""

from pathlib import Path
from typing import Any

import pygal
from pygal.style import CleanStyle

from bench.results import Document


_STYLE = CleanStyle(
    font_family="sans-serif", background="white", plot_background="white"
)
_OPTIONS: dict[str, Any] = {
    "style": _STYLE,
    "js": (),
    "human_readable": True,
    "print_values": True,
    "legend_at_bottom": True,
    "truncate_legend": -1,
    "truncate_label": -1,
    "show_y_guides": False,
    "no_prefix": True,
}


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
            _bars(chosen, _AXES[unit][1]).render_to_file(str(folder / name))
            drawn.setdefault(scenario["name"], []).append(name)
    return drawn


_AXES = {"/s": ("rates", "per second"), "ms": ("times", "milliseconds")}


def _bars(figures: list[Document], title: str) -> Any:
    """Return bars of the medians; the range of the rounds is in the table."""
    height = 120 + 40 * len(figures)
    chart = pygal.HorizontalBar(
        **_OPTIONS, title=f"median, {title}", height=height, show_legend=False
    )
    # The first bar is drawn at the bottom.
    ordered = list(reversed(figures))
    chart.x_labels = [figure["name"] for figure in ordered]
    chart.add("median", [figure["values"]["median"] for figure in ordered])
    chart.add_xml_filter(_drawing_alone)
    return chart


def _drawing_alone(root: Any) -> Any:
    """Remove comments, and scripts, which an image in a page does not run."""
    for parent in list(root.iter()):
        for child in list(parent):
            # A comment's tag is a function.
            if not isinstance(child.tag, str) or child.tag.endswith("script"):
                parent.remove(child)
    return root
