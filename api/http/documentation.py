"""The routes that describe the API: the document, its page, and pages about codes."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import falcon
from falcon import Request, Response, inspect

from api.extension import is_page
from api.http import query
from api.http.middleware import Resource
from api.http.openapi import pages
from api.http.openapi.document import document_of
from api.views.codes import problem_codes
from signer.errors import NotFoundError


_App = falcon.App[falcon.Request, falcon.Response]


class _Description:
    """What an application serves; made at the first request, and then kept."""

    def __init__(self, app: _App) -> None:
        self._app = app

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """
        The OpenAPI document of the application's routes.

        Pages for people are left out: they may change at any time.
        """
        routes = {
            route.path: {each.method for each in route.methods if not each.internal}
            for route in inspect.inspect_routes(self._app)
            if not is_page(route.path)
        }
        return document_of(routes)

    @cached_property
    def json(self) -> bytes:
        """The document as JSON."""
        return json.dumps(self.document).encode()

    @cached_property
    def page(self) -> bytes:
        """The document as a page."""
        return pages.render_document(self.document).encode()


class _PublicResource(Resource):
    required_role = None


class OpenAPIDocument(_PublicResource):
    """``/openapi.json``: the routes that this process serves."""

    def __init__(self, description: _Description) -> None:
        self._description = description

    def on_get(self, req: Request, resp: Response) -> None:
        """Answer the OpenAPI document."""
        query.parameters(req)

        resp.content_type = falcon.MEDIA_JSON
        resp.data = self._description.json


class Documentation(_PublicResource):
    """``/docs``: the same as a page, which runs no script and loads nothing."""

    content_policy = pages.CONTENT_POLICY

    def __init__(self, description: _Description) -> None:
        self._description = description

    def on_get(self, req: Request, resp: Response) -> None:
        """Answer the page."""
        query.parameters(req)

        resp.content_type = falcon.MEDIA_HTML
        resp.data = self._description.page


class ProblemPage(_PublicResource):
    """``/problems/{code}``: what a code means.  The ``type`` of problems links here."""

    content_policy = pages.CONTENT_POLICY

    def on_get(self, req: Request, resp: Response, code: str) -> None:
        """Answer a page, or text if the client prefers that."""
        query.parameters(req)
        entry = problem_codes().get(code)
        if entry is None:
            raise NotFoundError("there is no such code: GET /problems lists the codes")

        if _prefers_text(req, resp):
            resp.text = pages.problem_text(entry)
        else:
            resp.text = pages.render_problem(entry)


class ProblemIndex(_PublicResource):
    """``/problems``: the codes that have a page."""

    content_policy = pages.CONTENT_POLICY

    def on_get(self, req: Request, resp: Response) -> None:
        """Answer a page, or text if the client prefers that."""
        query.parameters(req)
        if _prefers_text(req, resp):
            resp.text = pages.index_text()
        else:
            resp.text = pages.render_index()


def _prefers_text(req: Request, resp: Response) -> bool:
    """Set the media type that *req* prefers; return whether it is text, not HTML."""
    resp.append_header("Vary", "Accept")
    is_text = req.client_prefers(("text/html", "text/plain")) == "text/plain"
    resp.content_type = falcon.MEDIA_TEXT if is_text else falcon.MEDIA_HTML
    return is_text


def add_documentation(app: _App) -> None:
    """Add the routes; they describe what *app* serves when they are asked."""
    description = _Description(app)
    app.add_route("/openapi.json", OpenAPIDocument(description))
    app.add_route("/docs", Documentation(description))
    app.add_route("/problems", ProblemIndex())
    app.add_route("/problems/{code}", ProblemPage())
