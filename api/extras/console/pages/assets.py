"""What the pages load: one style sheet and an icon."""

from falcon import Request, Response

from api.extras.console.pages.session_page import ConsolePage
from api.extras.console.rendering import icon, style_sheet
from api.http import query


class StyleSheet(ConsolePage):
    """``/console/console.css``: how all pages look."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Answer the style sheet."""
        query.parameters(req)

        resp.content_type = "text/css; charset=utf-8"
        resp.data = style_sheet()


class Icon(ConsolePage):
    """``/console/icon.svg``: what a browser shows beside the title."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Answer the icon."""
        query.parameters(req)

        resp.content_type = "image/svg+xml"
        resp.data = icon()
