"""The application and a client of it, for the tests of the API."""

import io
import logging
from collections.abc import Iterator

import falcon.testing
import pytest
import structlog

from api import logs
from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from tests.api.service import Pace, build_container
from tests.api.support import SettableClock
from tests.fixtures.scripted_chain import ScriptedChain


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    """Log as production does, into a buffer; put everything back afterwards."""
    root, raising = logging.getLogger(), logging.raiseExceptions
    handlers, level = root.handlers, root.level
    buffer = io.StringIO()
    logs.install(debug=True, stream=buffer)
    yield buffer
    logging.captureWarnings(False)
    root.handlers, root.level = handlers, level
    logging.raiseExceptions = raising
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def clock() -> SettableClock:
    """A clock that stands still until it is told to move."""
    return SettableClock()


@pytest.fixture
def pace() -> Pace:
    """A timer that moves while somebody sleeps."""
    return Pace()


@pytest.fixture
def container(sqlite_store: SQLStore, clock: SettableClock, pace: Pace) -> Container:
    """The real parts over an empty ledger, on a network whose nodes are down."""
    return build_container(sqlite_store, clock, pace=pace)


@pytest.fixture
def node() -> ScriptedChain:
    """A chain that mines when it is told to."""
    return ScriptedChain()


@pytest.fixture
def paying(
    sqlite_store: SQLStore, clock: SettableClock, pace: Pace, node: ScriptedChain
) -> falcon.testing.TestClient:
    """A client of the application, on a network whose node works."""
    container = build_container(sqlite_store, clock, client=node, pace=pace)
    return falcon.testing.TestClient(create_app(container))


@pytest.fixture
def client(container: Container) -> falcon.testing.TestClient:
    """A client that speaks WSGI to the application."""
    return falcon.testing.TestClient(create_app(container))
