"""Browsers in front of the console, over each database."""

import pytest
from falcon.testing import TestClient

from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from tests.api.browser import Browser, build_console
from tests.api.conftest import (
    _described,
    clock,
    hotwallet,
    log,
    node,
    pace,
    paying,
    paying_container,
)
from tests.api.support import SettableClock
from tests.extras.console.worlds import World
from tests.fixtures.scripted_chain import ScriptedChain


__all__ = [
    "_described",
    "clock",
    "hotwallet",
    "log",
    "node",
    "pace",
    "paying",
    "paying_container",
]


@pytest.fixture
def container(
    sqlite_store: SQLStore, clock: SettableClock, node: ScriptedChain
) -> Container:
    """The container over an empty ledger, whose changes need two administrators."""
    return build_console(sqlite_store, clock, node)


@pytest.fixture
def client(container: Container) -> TestClient:
    return TestClient(create_app(container))


@pytest.fixture
def browser(client: TestClient) -> Browser:
    opened = Browser(client)
    assert opened.log_in().status_code == 303
    return opened


@pytest.fixture
def world(sqlite_store: SQLStore) -> World:
    """A service, and the browser of an administrator."""
    return World(sqlite_store)
