"""
The routes of the API: each method is declared beside the function that answers it.

The declaration gives the permission, the check of the query and the operation of the
OpenAPI document.  The docstring of the function is its summary and its description.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

from falcon import Request, Response

from api.auth.authorization import Permission
from api.container import Container
from api.http import query
from api.http.concurrency import WaitingRequests
from api.http.exports import Exports
from api.http.middleware import Resource
from api.http.openapi.elements import Element, operation, parameter
from api.http.query import Parameter
from api.request_context import actor, tenant
from api.views.document import Document
from signer.model.audit_record import Actor
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.preview import Previewer
from signer.webhooks.event_feed import EventFeed


if TYPE_CHECKING:
    from api.http.app import App
    from api.http.documentation import Description


@dataclass(eq=False, repr=False)
class Parts:
    """The parts of the process, and what only its routes use."""

    container: Container
    waiting: WaitingRequests
    description: "Description"

    def open_refunds(self) -> None:
        """Open what answers tenants; ConfigurationError if that is not possible."""
        # At the start, and not in the first request.
        _ = self.container.refunds, self.container.explainer, self.previewer

    @cached_property
    def exports(self) -> Exports:
        """Sends files to tenants."""
        return Exports(self.container.store)

    @cached_property
    def previewer(self) -> Previewer:
        """Says what would happen with a refund."""
        container, store = self.container, self.container.store
        clock = container.ledger_clock
        return Previewer(
            store,
            container.tenants_chains,
            wallets=container.wallets,
            clock=clock,
            tenants=container.tenants,
            gas_price_check=GasPriceCheck(store, container.alerts, clock),
            policy=container.payment_policy,
        )

    @cached_property
    def event_feed(self) -> EventFeed:
        """Reads the events of a tenant."""
        container = self.container
        keep = container.settings.event_retention
        return EventFeed(container.store, keep, container.ledger_clock)


@dataclass(frozen=True, slots=True)
class Call:
    """One request: *given* are its query parameters, and *parts* are the routes'."""

    parts: "Parts"
    req: Request
    resp: Response
    given: Mapping[str, str]

    @property
    def container(self) -> Container:
        """The parts of the process."""
        return self.parts.container

    @property
    def tenant(self) -> str:
        """The caller's tenant.  Only routes for tenants may read it."""
        return tenant(self.req)

    @property
    def actor(self) -> Actor:
        """The caller, for audit records."""
        return actor(self.req)


Answer = Callable[..., Document | None]
"""Answers a call, with the values of its path; None if it has set the body."""

Declare = Callable[[Answer], Answer]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a route; *names* are those of its query parameters."""

    answer: Answer
    permission: Permission | None
    names: Sequence[str]


class Route(Resource):
    """A route; its methods are *operations*."""

    def __init__(
        self,
        parts: "Parts",
        operations: Mapping[str, Operation],
        *,
        is_probe: bool,
        content_policy: str | None,
        takes_body: bool,
    ) -> None:
        self._parts = parts
        self._operations = operations
        self.methods = tuple(sorted(operations))  # type: ignore[misc]
        self.is_probe = is_probe  # type: ignore[misc]
        self.content_policy = content_policy  # type: ignore[misc]
        self.takes_body = takes_body  # type: ignore[misc]
        for method, each in operations.items():
            setattr(self, f"on_{method.lower()}", partial(self._answer, each))

    def permission(self, method: str) -> Permission | None:  # type: ignore[override]
        """Return what a token must grant for *method*; None if it is public."""
        return self._operations[method].permission

    def _answer(
        self, each: Operation, req: Request, resp: Response, **path: str
    ) -> None:
        # A load balancer may ask with any query.
        given = {} if self.is_probe else query.parameters(req, *each.names)
        document = each.answer(Call(self._parts, req, resp, given), **path)
        if document is not None:
            resp.media = document.dump()


class Routes:
    """Routes of one kind: under one *tag*, with one permission but for the scope."""

    def __init__(
        self,
        tag: str,
        permission: Permission | None,
        problems: Iterable[str],
        *,
        names: Mapping[str, Element] | None = None,
        is_probe: bool = False,
    ) -> None:
        """Add *problems* to those of each method; *names* are those of paths."""
        self.paths: dict[str, Element] = defaultdict(dict)
        """The operations of the OpenAPI document."""
        self._tag = tag
        self._permission = permission
        self._problems = frozenset(problems)
        self._names = names or {}
        self._is_probe = is_probe
        self._operations: dict[str, dict[str, Operation]] = defaultdict(dict)
        self._policies: dict[str, str] = {}

    def get(self, path: str, name: str, scope: str = "", **declared: Any) -> Declare:
        """Declare GET of *path*, as ``declare``."""
        return self.declare("GET", path, name, scope, **declared)

    def head_and_get(
        self, path: str, noun: str, *, answers: Mapping[int, Element]
    ) -> Declare:
        """Declare GET of *path*, and HEAD, which answers the same without the body."""
        bare = {
            status: {key: part for key, part in each.items() if key != "content"}
            for status, each in answers.items()
        }
        get = self.declare("GET", path, f"get{noun}", answers=answers)
        head = self.declare("HEAD", path, f"head{noun}", answers=bare)
        return lambda answer: head(get(answer))

    def post(self, path: str, name: str, scope: str = "", **declared: Any) -> Declare:
        """Declare POST of *path*, as ``declare``."""
        return self.declare("POST", path, name, scope, **declared)

    def declare(  # noqa: PLR0913  It is the whole declaration.
        self,
        method: str,
        path: str,
        name: str,
        scope: str = "",
        *,
        answers: Mapping[int, Element],
        takes: Sequence[Parameter] = (),
        headers: Sequence[Element] = (),
        body: Element | None = None,
        problems: Iterable[str] = (),
        tag: str | None = None,
        content_policy: str | None = None,
    ) -> Declare:
        """
        Make of a function, whose docstring describes it, the operation *name*.

        A token needs *scope*.  *takes* are query parameters, *body* and *answers* parts
        of the document, and *problems* the codes of more errors.
        """
        permission = self._permission and replace(self._permission, scope=scope)
        given = [
            *(
                parameter(each, "path", self._names[each], required=True)
                for each in re.findall(r"{([a-z_]+)}", path)
            ),
            *(parameter(p.name, "query", p.schema, required=False) for p in takes),
            *headers,
        ]
        members: dict[str, Any] = {"parameters": given} if given else {}
        if body is not None:
            members["requestBody"] = body
        members["security"] = [{"bearerToken": [scope]} if permission else {}]
        if permission is not None:
            members["x-roles"] = sorted(permission.roles)
        if content_policy is not None:
            self._policies[path] = content_policy

        def add(answer: Answer) -> Answer:
            words = cleandoc(answer.__doc__ or "")
            summary, _, description = words.partition("\n\n")
            self.paths[path][method.lower()] = operation(
                name,
                summary.removesuffix("."),
                description,
                tag=tag or self._tag,
                answers=answers,
                problems=self._problems | frozenset(problems),
                **members,
            )
            names = [each.name for each in takes]
            self._operations[path][method] = Operation(answer, permission, names)
            return answer

        return add

    def add_to(self, app: "App", parts: "Parts") -> None:
        """Add the routes to *app*."""
        for path, operations in self._operations.items():
            route = Route(
                parts,
                operations,
                is_probe=self._is_probe,
                content_policy=self._policies.get(path),
                takes_body="requestBody" in self.paths[path].get("post", ()),
            )
            app.add_route(path, route)
