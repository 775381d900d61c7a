"""A flame graph as an SVG without scripts: width is time, and callees are below."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape


_WIDTH, _ROW, _TOP = 1200, 17, 46
_LETTER = 6.6  # The width of one at 11 pixels.
_LEAST_SHARE = 0.004  # Narrower frames cannot be seen.

_COLOURS = {
    "signer/": "#e8743b",
    "backends/": "#f2b134",
    "api/": "#6a9fd8",
    "the libraries": "#c9ced6",
}


@dataclass(slots=True)
class _Frame:
    count: int = 0
    callees: dict[str, "_Frame"] = field(default_factory=dict)


def draw_flames(stacks: Mapping[tuple[str, ...], int], title: str) -> str:
    """Return the flame graph of *stacks*, each with its number of samples."""
    root = _Frame()
    for stack, count in stacks.items():
        _add(root, stack, count)
    scale = _WIDTH / max(1, root.count)
    body, depth = [], 0
    for name, frame, start, level in _visible(root, 0, 0, root.count * _LEAST_SHARE):
        depth = max(depth, level + 1)
        share = 100 * frame.count / root.count
        body.append(_box(name, start * scale, level, frame.count * scale, share))
    height = _TOP + _ROW * depth + 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        f' width="{_WIDTH}" height="{height}" font-family="monospace" font-size="11">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>\n'
        f'<text x="4" y="16" font-size="13">{escape(title)}: {root.count:,} samples;'
        " width is time, callees are below</text>\n"
        f"{_legend()}{''.join(body)}</svg>\n"
    )


def _add(root: _Frame, stack: tuple[str, ...], count: int) -> None:
    frame = root
    frame.count += count
    for name in stack:
        frame = frame.callees.setdefault(name, _Frame())
        frame.count += count


def _visible(
    parent: _Frame, start: int, level: int, least: float
) -> Iterator[tuple[str, _Frame, int, int]]:
    """Yield the frames below *parent*, each with its first sample and its level."""
    for name, frame in sorted(parent.callees.items()):
        if frame.count >= least:
            yield name, frame, start, level
            yield from _visible(frame, start, level + 1, least)
        start += frame.count


def _box(name: str, x: float, level: int, width: float, share: float) -> str:
    y = _TOP + _ROW * level
    letters = int((width - 4) / _LETTER)
    shown = name if len(name) <= letters else f"{name[: letters - 1]}…"
    text = escape(shown) if letters > 3 else ""  # noqa: PLR2004  Too short to read.
    return (
        f"<g><title>{escape(name)}: {share:.1f} %</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{max(0.5, width - 0.5):.1f}"'
        f' height="{_ROW - 1}" fill="{_colour(name)}"/>'
        f'<text x="{x + 2:.1f}" y="{y + 12}">{text}</text></g>\n'
    )


def _colour(name: str) -> str:
    file = name.partition(" (")[2]
    for prefix, colour in _COLOURS.items():
        if file.startswith(prefix):
            return colour
    return _COLOURS["the libraries"]


def _legend() -> str:
    return "".join(
        f'<rect x="{4 + 110 * place}" y="25" width="10" height="10" fill="{colour}"/>'
        f'<text x="{18 + 110 * place}" y="34">{name}</text>\n'
        for place, (name, colour) in enumerate(_COLOURS.items())
    )
