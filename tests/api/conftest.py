"""The application and a client of it, for the tests of the API."""

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import falcon.testing
import pytest
import structlog

from api import logs
from api.cli.__main__ import main
from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from tests.api.commands import Finished, Run
from tests.api.described_answers import check_answer, find_route
from tests.api.service import Pace, build_container
from tests.api.support import SettableClock
from tests.fixtures.scripted_chain import ScriptedChain


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    """Log to a buffer as production does; restore logging afterwards."""
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


@pytest.fixture(autouse=True)
def _described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare each answer of the application with the OpenAPI document."""
    simulate = falcon.testing.TestClient.simulate_request

    def checked(
        client: falcon.testing.TestClient,
        method: str = "GET",
        path: str = "/",
        **given: Any,
    ) -> falcon.testing.Result:
        answer = simulate(client, method, path, **given)
        if find_route(client.app, "/openapi.json") is not None:
            check_answer(client.app, method, path, _sent(given), answer)
        return answer

    monkeypatch.setattr(falcon.testing.TestClient, "simulate_request", checked)


def _sent(given: Mapping[str, Any]) -> object:
    """Return the body of a request; None if it is not JSON."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return given.get("json") or json.loads(given["body"])
    return None


@pytest.fixture
def hotwallet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Return a function that runs ``hotwallet`` in this process."""
    monkeypatch.setenv("HOTWALLET_NO_ENV_FILE", "1")

    def run(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["hotwallet", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        return Finished(exited.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def pace() -> Pace:
    return Pace()


@pytest.fixture
def container(sqlite_store: SQLStore, clock: SettableClock, pace: Pace) -> Container:
    """The container over an empty ledger and a network whose nodes are down."""
    return build_container(sqlite_store, clock, pace=pace)


@pytest.fixture
def node() -> ScriptedChain:
    return ScriptedChain()


@pytest.fixture
def paying_container(
    sqlite_store: SQLStore, clock: SettableClock, pace: Pace, node: ScriptedChain
) -> Container:
    """The container over an empty ledger and a network whose node works."""
    return build_container(sqlite_store, clock, client=node, pace=pace)


@pytest.fixture
def paying(paying_container: Container) -> falcon.testing.TestClient:
    """A client of the application on a network whose node works."""
    return falcon.testing.TestClient(create_app(paying_container))


@pytest.fixture
def client(container: Container) -> falcon.testing.TestClient:
    """A client of the application on a network whose nodes are down."""
    return falcon.testing.TestClient(create_app(container))
