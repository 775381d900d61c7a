"""The routes of the service itself: the probes, and what describes the API."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import falcon
from falcon import inspect

from api.extension import is_page
from api.http.openapi import examples, pages, problem_sets
from api.http.openapi.document import document_of
from api.http.openapi.elements import answer, one_of, schema, text
from api.http.operations import Call, Routes
from api.views.administration import LivenessDocument, ReadinessDocument
from api.views.codes import problem_codes
from signer.errors import NotFoundError


_App = falcon.App[falcon.Request, falcon.Response]

PROBES = Routes("Service", None, problem_sets.HTTP, is_probe=True)
ROUTES = Routes(
    "Service",
    None,
    problem_sets.HTTP | {"invalid-input"},
    names={"code": one_of(sorted(problem_codes()), "A code.")},
)

_PAGE = text("A page.")
_HTML = {200: answer("The page.", _PAGE, media_type="text/html")}
_HTML_OR_TEXT = {
    200: {
        **_HTML[200],
        "content": {"text/html": {"schema": _PAGE}, "text/plain": {"schema": _PAGE}},
    }
}


class Description:
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


@PROBES.head_and_get(
    "/healthz",
    "Health",
    answers={200: answer("It does.", schema("Liveness"), {"status": "ok"})},
)
def _liveness(_: Call) -> LivenessDocument:
    """
    The process answers.

    No token is needed.
    """
    return LivenessDocument(status="ok")


@PROBES.head_and_get(
    "/readyz",
    "Readiness",
    answers={
        200: answer("It can.", schema("Readiness"), examples.READINESS),
        503: answer(
            "It cannot. Send requests to other hosts; a restart does not help.",
            schema("Readiness"),
        ),
    },
)
def _readiness(call: Call) -> ReadinessDocument:
    """
    The host can serve requests.

    No token is needed.
    """
    readiness = call.container.readiness()
    if not readiness.ready:
        call.resp.status = falcon.HTTP_SERVICE_UNAVAILABLE
    return ReadinessDocument.of(readiness)


@ROUTES.get(
    "/openapi.json",
    "getDocument",
    answers={200: answer("OpenAPI 3.1.", {"type": "object"})},
)
def _document(call: Call) -> None:
    """
    This document.

    The routes that this process serves.
    """
    call.resp.content_type = falcon.MEDIA_JSON
    call.resp.data = call.parts.description.json


@ROUTES.get(
    "/docs", "getDocumentation", answers=_HTML, content_policy=pages.CONTENT_POLICY
)
def _documentation(call: Call) -> None:
    """
    This document as a page.

    For browsers, without scripts.
    """
    call.resp.content_type = falcon.MEDIA_HTML
    call.resp.data = call.parts.description.page


@ROUTES.get(
    "/problems",
    "listProblems",
    answers=_HTML_OR_TEXT,
    content_policy=pages.CONTENT_POLICY,
)
def _problems(call: Call) -> None:
    """
    All codes.

    HTML, or text for `Accept: text/plain`.
    """
    is_text = _prefers_text(call)
    call.resp.text = pages.index_text() if is_text else pages.render_index()


@ROUTES.get(
    "/problems/{code}",
    "getProblem",
    answers=_HTML_OR_TEXT,
    problems={"not-found"},
    content_policy=pages.CONTENT_POLICY,
)
def _problem(call: Call, code: str) -> None:
    """
    What a code means, and what to do.

    HTML, or text for `Accept: text/plain`. The `type` of errors links here.
    """
    entry = problem_codes().get(code)
    if entry is None:
        raise NotFoundError("there is no such code: GET /problems lists the codes")
    render = pages.problem_text if _prefers_text(call) else pages.render_problem
    call.resp.text = render(entry)


def _prefers_text(call: Call) -> bool:
    """Set the media type that is preferred; return whether it is text, not HTML."""
    resp = call.resp
    resp.append_header("Vary", "Accept")
    is_text = call.req.client_prefers(("text/html", "text/plain")) == "text/plain"
    resp.content_type = falcon.MEDIA_TEXT if is_text else falcon.MEDIA_HTML
    return is_text
