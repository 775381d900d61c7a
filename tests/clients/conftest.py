"""A running service for the clients, and a token of a tenant."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.auth.dev_tokens import mint
from signer.config.settings import Settings
from tests.api.live_server import PING, Server, service_environ


@dataclass(frozen=True)
class Service:
    """A gunicorn on a real socket, which pays on a chain in memory."""

    url: str
    settings: Settings

    def token(self) -> str:
        return mint(self.settings, subject="gateway-1", roles=["merchant"])

    @property
    def environ(self) -> dict[str, str]:
        return {"HOTWALLET_URL": self.url, "TOKEN": self.token()}


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[Service]:
    environ = service_environ(tmp_path_factory.mktemp("service"), _sqlite_template)
    environ |= {"SERVE_ROLE": "refunds", "WEB_THREADS": "8"}
    with Server(environ, "tests.api.fuzzed_app:get_app()") as server:
        settings = Settings.from_env(environ)
        server.ask(PING)  # Answered when it has started.
        yield Service(f"http://127.0.0.1:{server.port}", settings)
