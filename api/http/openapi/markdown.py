"""Renders the part of Markdown that the document uses: paragraphs, lists and code."""

import re
from html import escape


def inline(text: str) -> str:
    """Return *text* as HTML, with code in backticks."""
    parts = text.split("`")
    return "".join(
        f"<code>{escape(part)}</code>" if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def paragraphs(text: str) -> str:
    """Return the paragraphs and lists of *text* as HTML."""
    blocks = re.split(r"\n\s*\n", text.strip())
    return "".join(map(_block, filter(None, blocks)))


def _block(text: str) -> str:
    if not text.startswith("* "):
        return f"<p>{inline(text)}</p>"
    items = re.split(r"(?:^|\n)\* ", text)[1:]
    return f"<ul>{''.join(f'<li>{inline(item)}</li>' for item in items)}</ul>"
