"""Why PostgreSQL lets nobody in: told in our words, by a real server."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from backends.sql import SQLStore
from backends.sql.connect_errors import reason
from signer.errors import ConfigurationError, StoreUnavailableError
from tests.fixtures.plain_server import PlainServer
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.tenant import Tenant
from tests.support.canaries import CANARIES, Detector, core, value


USER, DATABASE = value("dsn-user"), value("dsn-database")
PASSWORD = value("dsn-password-odd")

# Too long to be asked for: no resolver is bothered with it.
NOWHERE = core("dsn-host") + ".x" * 120


@dataclass(frozen=True)
class Door:
    """A server with one user, who has a password, and ways to ask it wrongly."""

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
def door(postgresql: PostgreSQL) -> Iterator[Door]:
    """The session's server, for which this module's user needs a password."""
    with (
        Tenant(postgresql, USER, PASSWORD, DATABASE) as tenant,
        PlainServer() as plain,
    ):
        yield Door(str(tenant.server.folder), plain.port)


def _refused(url: str) -> str:
    store = SQLStore(url, timeout=1)
    with pytest.raises(StoreUnavailableError) as caught:
        store.check()
    assert caught.value.__context__ is None
    return str(caught.value)


def test_the_right_password(door: Door) -> None:
    """The server lets in who has it: what follows is refused for its own reason."""
    SQLStore(door.url(), timeout=1).migrate()


WRONG = {
    "password": ({"password": value("dsn-password")}, "correct them in DATABASE_URL"),
    "no password": ({"password": ""}, "DATABASE_URL has none"),
    "user": ({"user": f"{USER}x"}, "it does not know the user"),
    "database": ({"user": "tests", "database": f"{DATABASE}x"}, "no such database"),
    "host": ({"place": NOWHERE}, "its host name means nothing"),
    "port": ({"place": "127.0.0.1:1"}, "nobody listens there"),
    "port number": ({"place": "127.0.0.1:99999"}, "libpq does not take"),
    "socket": ({"place": "", "query": f"host=/{DATABASE}"}, "nobody listens there"),
    "sslmode": ({"query": f"sslmode={DATABASE}"}, "libpq does not take"),
    "option": ({"query": f"{DATABASE}=1"}, "libpq does not take"),
}


@pytest.mark.parametrize(("changes", "told"), WRONG.values(), ids=WRONG)
def test_each_mistake_has_its_cure(
    door: Door, caplog: pytest.LogCaptureFixture, changes: dict[str, str], told: str
) -> None:
    """Of a wrong URL the wrong part is named, and not one part of it is shown."""
    caplog.set_level(logging.INFO)

    said = _refused(door.url(**changes))

    assert told in said
    assert Detector(CANARIES.values()).found(said + caplog.text) == set()


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_tls_that_the_server_has_not(door: Door, mode: str) -> None:
    """A server without TLS is not spoken to in clear by who demands it."""
    place = f"127.0.0.1:{door.plain_port}"

    said = _refused(door.url(place=place, query=f"sslmode={mode}"))

    assert "it has no TLS" in said


def test_a_host_that_no_resolver_takes(door: Door) -> None:
    """A label that is too long is refused at once; Python would quote the name."""
    with pytest.raises(ConfigurationError) as caught:
        SQLStore(door.url(place=f"{core('dsn-host')}{'x' * 60}.invalid"))

    assert Detector(CANARIES.values()).found(str(caught.value)) == set()


SAID = {
    'FATAL:  role "x" is not permitted to log in': "ALTER ROLE ... LOGIN",
    'FATAL:  permission denied for database "x"': "GRANT CONNECT",
    'FATAL:  database "x" is not currently accepting connections': "ALTER DATABASE",
    'FATAL:  no pg_hba.conf entry for host "x", user "y"': "have it let in",
    "SSL error: certificate verify failed": "sslrootcert",
    "connection timeout expired": "does not answer",
    "FATAL:  sorry, too many clients already": "no connection to spare",
    "FATAL:  the database system is starting up": "wait for it",
}


@pytest.mark.parametrize(("said", "told"), SAID.items(), ids=SAID)
def test_what_else_servers_say(said: str, told: str) -> None:
    """Words of libpq and of servers that are dear to stage have their reason too."""
    assert told in str(reason(said))


def test_words_that_nobody_knows() -> None:
    """What has no reason of ours has none: nothing is passed on."""
    assert reason("der Server mag nicht") is None
