"""Renders the part of Markdown that the document uses, which has no HTML in it."""

import re
from collections.abc import Iterator
from html import escape


_LINK = re.compile(r"\[([^\]]+)\]\((/[^)\s]*)\)")
_FENCE = "```"
_ITEM = re.compile(r"(?:^|\n)(?:\*|[0-9]+\.) ")
_HEADING = "### "


def inline(text: str) -> str:
    """Return *text* as HTML, with code, bold text, and links to paths of the API."""
    parts = _LINK.split(text)
    # Text, and then label, target and text of each link.
    html = _words(parts[0])
    for label, target, after in zip(*(parts[n::3] for n in (1, 2, 3)), strict=True):
        html += f'<a href="{escape(target)}">{_words(label)}</a>{_words(after)}'
    return html


def paragraphs(text: str) -> str:
    """Return the headings, paragraphs, lists, tables and code of *text* as HTML."""
    parts = text.split(_FENCE)
    return "".join(
        f'<pre tabindex="0">{escape(part.strip())}</pre>'
        if index % 2
        else _blocks(part)
        for index, part in enumerate(parts)
    )


def headings(text: str) -> Iterator[tuple[str, str]]:
    """Yield the anchor and the words of each heading of *text*."""
    for line in text.splitlines():
        if line.startswith(_HEADING):
            words = line.removeprefix(_HEADING)
            yield "guide-" + re.sub("[^a-z]+", "-", words.lower()), words


def _words(text: str) -> str:
    parts = text.split("`")
    html = "".join(
        f"<code>{escape(part)}</code>" if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html)


def _blocks(text: str) -> str:
    blocks = re.split(r"\n\s*\n", text.strip())
    return "".join(map(_block, filter(None, blocks)))


def _block(text: str) -> str:
    if text.startswith(_HEADING):
        ((anchor, words),) = headings(text)
        return f'<h3 id="{anchor}">{inline(words)}</h3>'
    if text.startswith("|"):
        return _table(text)
    if not _ITEM.match(text):
        return f"<p>{inline(text)}</p>"
    kind = "ul" if text.startswith("*") else "ol"
    items = "".join(f"<li>{inline(item)}</li>" for item in _ITEM.split(text)[1:])
    return f"<{kind}>{items}</{kind}>"


def _table(text: str) -> str:
    first, _, *rest = text.splitlines()
    return (
        f"<table>{_row(first, 'th')}{''.join(_row(row, 'td') for row in rest)}</table>"
    )


def _row(line: str, cell: str) -> str:
    cells = line.strip("| ").split(" | ")
    return f"<tr>{''.join(f'<{cell}>{inline(each)}</{cell}>' for each in cells)}</tr>"
