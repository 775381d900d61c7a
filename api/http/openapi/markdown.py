"""Renders the Markdown of the document, with an anchor for each heading."""

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token


_HEADING = "### "


def headings(text: str) -> Iterator[tuple[str, str]]:
    """Yield the anchor and the words of each heading of *text*."""
    for line in text.splitlines():
        if line.startswith(_HEADING):
            words = line.removeprefix(_HEADING)
            yield anchor(words), words


def anchor(words: str) -> str:
    return "guide-" + re.sub("[^a-z]+", "-", words.lower())


class _Renderer(RendererHTML):
    """Headings have anchors, and code can be scrolled with the keyboard."""

    def heading_open(
        self, tokens: Sequence[Token], idx: int, options: Any, env: Any
    ) -> str:
        return f'<h3 id="{anchor(tokens[idx + 1].content)}">'

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f'<pre tabindex="0">{escape(tokens[idx].content.strip())}</pre>'


MARKDOWN = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable(
    "table"
)
