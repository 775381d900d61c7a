"""Errors of connections that a real PostgreSQL server refuses."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from backends.sql.errors import explain_connect_error
from signer.errors import ConfigurationError, StoreUnavailableError
from tests.e2e.canaries import CANARIES, Detector, core, value
from tests.fixtures.plain_server import PlainServer
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.tenant import Tenant
from tests.support.ledgers import open_ledger


USER, DATABASE = value("dsn-user"), value("dsn-database")
PASSWORD = value("dsn-password-odd")

# Too long for DNS, so that no resolver is called.
NOWHERE = core("dsn-host") + ".x" * 120


@dataclass(frozen=True)
class Server:
    """A server with one user who has a password."""

    folder: str
    plain_port: int

    def url(
        self,
        user: str = USER,
        password: str = PASSWORD,
        database: str = DATABASE,
        place: str | None = None,
        query: str = "",
    ) -> str:
        """Return the URL that works, with changes."""
        login = f"{user}:{quote(password, safe='')}"
        if place is None:
            place, query = "", f"host={self.folder}&{query}"
        return f"postgresql://{login}@{place}/{database}?{query}"


@pytest.fixture(scope="module")
def server(postgresql: PostgreSQL) -> Iterator[Server]:
    """Return the session's server, where this module's user needs a password."""
    with Tenant(postgresql, USER, PASSWORD, DATABASE) as tenant, PlainServer() as plain:
        yield Server(str(tenant.server.folder), plain.port)


def _connect_error(url: str) -> str:
    store = open_ledger(url, timeout=1)
    with pytest.raises(StoreUnavailableError) as caught:
        store.check()
    assert caught.value.__context__ is None
    return str(caught.value)


def test_the_right_url_works(server: Server) -> None:
    """So each test below fails for its own reason only."""
    open_ledger(server.url(), timeout=1).migrate()


WRONG = {
    "password": ({"password": value("dsn-password")}, "correct them in DATABASE_URL"),
    "no password": ({"password": ""}, "requires a password"),
    "user": ({"user": f"{USER}x"}, "the user does not exist"),
    "database": (
        {"user": "tests", "database": f"{DATABASE}x"},
        "the database does not exist",
    ),
    "host": ({"place": NOWHERE}, "cannot be resolved"),
    "port": ({"place": "127.0.0.1:1"}, "no server is listening"),
    "port number": ({"place": "127.0.0.1:99999"}, "libpq does not accept"),
    "socket": ({"place": "", "query": f"host=/{DATABASE}"}, "no server is listening"),
    "sslmode": ({"query": f"sslmode={DATABASE}"}, "libpq does not accept"),
    "option": ({"query": f"{DATABASE}=1"}, "libpq does not accept"),
}


@pytest.mark.parametrize(("changes", "cause"), WRONG.values(), ids=WRONG)
def test_a_wrong_url_names_the_cause(
    server: Server,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, str],
    cause: str,
) -> None:
    """The error names the wrong part of the URL and shows no part of it."""
    caplog.set_level(logging.INFO)

    message = _connect_error(server.url(**changes))

    assert cause in message
    assert Detector(CANARIES.values()).found(message + caplog.text) == set()


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_a_server_without_tls_is_refused(server: Server, mode: str) -> None:
    """If sslmode requires TLS."""
    place = f"127.0.0.1:{server.plain_port}"

    message = _connect_error(server.url(place=place, query=f"sslmode={mode}"))

    assert "does not support TLS" in message


def test_a_host_name_that_is_too_long_is_refused(server: Server) -> None:
    """The error omits a label over 63 characters, which Python's error quotes."""
    with pytest.raises(ConfigurationError) as caught:
        open_ledger(server.url(place=f"{core('dsn-host')}{'x' * 60}.invalid"))

    assert Detector(CANARIES.values()).found(str(caught.value)) == set()


MESSAGES = {
    'FATAL:  role "x" is not permitted to log in': "ALTER ROLE ... LOGIN",
    'FATAL:  permission denied for database "x"': "GRANT CONNECT",
    'FATAL:  database "x" is not currently accepting connections': "ALTER DATABASE",
    'FATAL:  no pg_hba.conf entry for host "x", user "y"': "no entry for this host",
    "SSL error: certificate verify failed": "sslrootcert",
    "connection timeout expired": "does not answer",
    "FATAL:  sorry, too many clients already": "connections are in use",
    "FATAL:  the database system is starting up": "wait until it is up",
}


def test_known_messages_are_explained() -> None:
    """These causes are costly to produce with a real server."""
    for message, cause in MESSAGES.items():
        assert cause in str(explain_connect_error(message))


PARAMETERS = [
    'connection is bad: invalid sslmode value: "x"',
    'connection is bad: invalid "ssl_min_protocol_version" value: "x"',
    'connection is bad: invalid integer value "x" for connection option "port"',
    'connection is bad: invalid port number: "99999"',
    "connection is bad: invalid SSL protocol version range",
    'connection is bad: definition of service "x" not found',
    'invalid connection option "x"',
    'invalid URI query parameter: "x"',
    'invalid percent-encoded token: "%zz"',
]


def test_a_parameter_that_libpq_rejects_is_explained() -> None:
    """The messages are those of libpq 18."""
    for message in PARAMETERS:
        assert "libpq does not accept" in str(explain_connect_error(message))


UNKNOWN = [
    "the server is not in the mood",
    "received invalid response to SSL negotiation: H",
    "expected authentication request from server, but received invalid byte",
    "FATAL:  invalid startup packet layout",
    "invalid SCRAM response (nonce mismatch)",
]


def test_an_unknown_message_is_not_passed_on() -> None:
    """A peer whose answer is "invalid" does not mean that DATABASE_URL is wrong."""
    assert [explain_connect_error(each) for each in UNKNOWN] == [None] * len(UNKNOWN)
