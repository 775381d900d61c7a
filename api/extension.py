"""
What an extra can add to the core, and where extras are found.

The core is what pays refunds.  An extra is a feature that a service can run without: a
folder of ``api/extras`` or another package, which declares an ``Extra``.  The core
imports no extra; it asks this module for what they add.

An extra that reads the ledger with queries of its own declares a class of ``Tables`` in
its folder, and gets it with ``container.store.tables(...)``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from signer.ports.shipped_log import ShippedLog


GROUP = "hotwallet.extras"
"""The entry points of extras in other packages; ``HOTWALLET_EXTRAS`` names them."""

SERVICES = {
    "screening": "SCREENING_URL",
    "shipping": "AUDIT_SHIP_TO",
    "tracer": "TRACES_URL",
    "treasury": "TREASURY_URL",
}
"""
What the core asks for if a variable is set, which its extra reads.

It is refused if no extra of the installation has it: payments would not be screened.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """
    What one extra adds.

    Each value is ``module:attribute``, which is imported when it is used.  So the list
    of commands imports no library.
    """

    name: str
    commands: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """
    click commands with their line in the help.

    The key is ``NAME``, or ``GROUP NAME`` for a ``LazyGroup`` of the core.
    """
    services: Mapping[str, str] = field(default_factory=dict)
    """``(Container) -> object``: what opens one of ``SERVICES``."""
    routes: Mapping[str, str] = field(default_factory=dict)
    """
    What adds routes to a process, by the role that serves them.

    ``(App, Container, AuthorizationMiddleware, WaitingRequests) -> None``
    """
    pages: str | None = None
    """The prefix of routes that are pages for people, and no part of the API."""
    openapi: str | None = None
    """The ``Operations`` of the routes (``api/http/openapi/elements.py``)."""
    shipped_log: str | None = None
    """
    ``(str, Mapping) -> ShippedLog``: opens the log that was shipped to a URL.

    The mapping is the environment.  It raises ``InvalidInputError``.
    """
    start_checks: str | None = None
    """
    ``(Container, *, paying: bool) -> None``, run by the guard.

    It raises ``ConfigurationError``; *paying* is whether the process moves refunds.
    """
    worker_loops: str | None = None
    """
    ``(Container) -> Iterable[tuple[str, Run]]``: threads of a worker, by name.

    ``Run`` ends when the function that it gets, which waits some seconds, returns true.
    """
    doctor_checks: str | None = None
    """``(Container) -> Iterable[Check]``, for ``hotwallet doctor``."""


def find_hooks(name: str) -> Iterator[Any]:
    """Yield what the field *name* of each extra names, imported now."""
    for extra in find_extras():
        if (target := getattr(extra, name)) is not None:
            yield load(target)


def find_routes(role: str) -> Iterator[Callable[..., None]]:
    """Yield what adds the routes of *role*, imported now; of every role for ``all``."""
    for extra in find_extras():
        for served, target in extra.routes.items():
            if role in {served, "all"}:
                yield load(target)


def is_page(path: str) -> bool:
    """Whether the route *path* is a page of an extra."""
    prefixes = [extra.pages for extra in find_extras() if extra.pages is not None]
    return any(path == each or path.startswith(f"{each}/") for each in prefixes)


def find_service(name: str, environ: Mapping[str, str]) -> Callable[..., Any] | None:
    """
    Return the function with which an extra opens the service *name*, imported now.

    Return None if the variable of the service is not set in *environ*.

    Raises:
        ConfigurationError: ``settings-invalid``: it is set, and no extra has it.
    """
    variable = SERVICES[name]
    if not environ.get(variable, "").strip():
        return None
    for extra in find_extras():
        if name in extra.services:
            return load(extra.services[name])  # type: ignore[no-any-return]
    from signer.errors import ConfigurationError, Refusal  # noqa: PLC0415

    problem = f"{variable} needs a {name}, and no extra of this installation has it"
    raise ConfigurationError(Refusal("settings-invalid", problem))


def open_shipped_log(url: str, environ: Mapping[str, str]) -> ShippedLog:
    """Return the log that was shipped to *url*; raises ``InvalidInputError``."""
    for open_log in find_hooks("shipped_log"):
        return open_log(url, environ)  # type: ignore[no-any-return]
    from signer.errors import InvalidInputError  # noqa: PLC0415

    raise InvalidInputError("no extra of this installation reads shipped logs")


def find_commands(group: str = "") -> dict[str, tuple[str, str]]:
    """Return what the extras add to *group*, by the last word of its name."""
    return {
        words[-1]: command
        for extra in find_extras()
        for path, command in extra.commands.items()
        if (words := path.split())[:-1] == group.split()
    }


@cache
def find_extras() -> tuple[Extra, ...]:
    """
    Return the extras of this installation, by name.

    They are all in ``api/extras``, and those of other packages that the variable
    ``HOTWALLET_EXTRAS`` names: a package does not become a part of the signer by being
    installed.

    Raises:
        ConfigurationError: ``backend-misconfigured``: a named extra cannot be loaded.
    """
    folder = Path(__file__).with_name("extras")
    found = [
        import_module(f"{__package__}.extras.{module.name}").EXTRA
        for module in iter_modules([str(folder)])
    ]
    named = os.environ.get("HOTWALLET_EXTRAS", "").split()
    if named:
        from api.plugins import load_extra  # noqa: PLC0415  It is slow.

        found += [load_extra(GROUP, name, Extra) for name in named]
    return tuple(sorted(found, key=lambda extra: extra.name))


def load(target: str) -> Any:
    """Return the attribute that *target*, ``module:attribute``, names."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
