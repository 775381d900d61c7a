"""QR codes in the page, as SVG."""

import segno
from markupsafe import Markup


def draw_qr_code(text: str) -> Markup:
    """
    Return *text* as a QR code, an ``svg`` element without a size.

    It has no quiet zone: the style sheet adds one, in white also on dark pages, because
    readers of QR codes need dark modules on a light ground.
    """
    code = segno.make(text, error="m", micro=False)
    svg = code.svg_inline(
        border=0,
        omitsize=True,
        svgclass="qr",
        lineclass=None,
        title=f"QR code of {text}",
    )
    return Markup(svg)  # noqa: S704  segno escapes the title, and the rest is numbers.
