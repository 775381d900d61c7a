"""Certificates of both sides, with a real PostgreSQL behind TLS."""

import re
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from backends.sql import SQLStore
from signer.errors import ConfigurationError, StoreUnavailableError
from signer.ports.refund_store import Topic
from tests.api.commands import Run
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.tls_server import TLSServer, self_signed
from tests.support.ledgers import open_ledger, write_mac_key


HOST = "db.example.com"
GUIDES = Path(__file__).parents[2] / "docs/how-to"


def _guides_urls() -> dict[str, str]:
    pattern = r"`(postgresql://[^`]*sslrootcert=system)`"
    texts = {path.name: path.read_text() for path in sorted(GUIDES.glob("*.md"))}
    return {
        name: url for name, text in texts.items() for url in re.findall(pattern, text)
    }


URLS = _guides_urls()


@pytest.fixture(scope="module")
def server(
    postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TLSServer]:
    """TLS before the session's server, which has the guides' database."""
    target = postgresql.folder / ".s.PGSQL.5432"
    with psycopg.connect(postgresql.url(), autocommit=True) as connection:
        connection.execute(b"CREATE DATABASE hotwallet")
        with TLSServer(tmp_path_factory.mktemp("tls"), HOST, target) as server:
            yield server
        connection.execute(b"DROP DATABASE hotwallet WITH (FORCE)")


def _at(url: str, server: TLSServer) -> str:
    """Return the guide's *url*, led to *server* instead of by DNS, as its user."""
    user = re.sub("//.*@", "//tests@", url)
    return f"{user}&hostaddr=127.0.0.1&port={server.port}"


def _open(url: str, server: TLSServer) -> SQLStore:
    return open_ledger(_at(url, server), timeout=2)


def test_a_guide_has_it() -> None:
    """Its own URL is tested below; a test of its own runs production.md."""
    assert set(URLS) == {"kubernetes.md"}
    assert all(HOST in url for url in URLS.values())


@pytest.fixture
def trusted(server: TLSServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust *server* as Debian does: a folder, and no file where OpenSSL looks."""
    bundle = tmp_path / "ca-certificates.crt"
    bundle.write_bytes(server.certificate.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_the_guides_url_works(
    url: str,
    server: TLSServer,
    hotwallet: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For `hotwallet db upgrade`, statements, and the connection that listens."""
    monkeypatch.setenv("DATABASE_URL", _at(url, server))
    monkeypatch.setenv("MAC_KEY_FILE", str(write_mac_key(tmp_path)))

    assert hotwallet("db", "upgrade").status == 0
    with closing(_open(url, server)) as store:
        store.check()
        before = server.encrypted
        with store.watch(Topic.MOVED) as watch:
            assert any(not watch.wait(0.3) for _ in range(60))  # It listens.

    assert server.encrypted == before + 1


@pytest.mark.usefixtures("trusted")
def test_the_variable_means_the_same(
    server: TLSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq also reads PGSSLROOTCERT."""
    monkeypatch.setenv("PGSSLROOTCERT", "system")
    url = URLS["kubernetes.md"].replace("&sslrootcert=system", "")

    with closing(_open(url, server)) as store:
        store.migrate()


@pytest.mark.parametrize("mode", ["", "sslmode=require&", "sslmode=verify-full&"])
def test_certificate_and_name_are_verified(
    server: TLSServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Whatever sslmode says, as for libpq's own ``system``."""
    url = URLS["kubernetes.md"].replace("sslmode=verify-full&", mode)
    self_signed(tmp_path, HOST)

    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    with closing(_open(url.replace(HOST, "other.example.com"), server)) as store:
        _fails(store)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "fullchain.pem"))
    with closing(_open(url, server)) as store:
        _fails(store)


def _fails(store: SQLStore) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        store.check()
    assert "certificate" in str(caught.value)


def test_a_host_without_certificates_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the package and the variable, and not the URL."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert ssl.get_default_verify_paths().cafile is None

    with pytest.raises(ConfigurationError) as caught:
        open_ledger(URLS["kubernetes.md"])

    assert "install ca-certificates, or set SSL_CERT_FILE" in str(caught.value)
    assert HOST not in str(caught.value)


@pytest.mark.usefixtures("trusted")
def test_a_client_has_a_certificate(server: TLSServer, tmp_path: Path) -> None:
    """With ``sslcert`` and ``sslkey``: for statements, and to listen."""
    url = URLS["kubernetes.md"]
    names = "known", "unknown"
    for name in names:
        (tmp_path / name).mkdir()
        self_signed(tmp_path / name, name)
        (tmp_path / name / "privkey.pem").chmod(0o600)
    known, unknown = (
        f"{url}&sslcert={tmp_path / name / 'fullchain.pem'}"
        f"&sslkey={tmp_path / name / 'privkey.pem'}"
        for name in names
    )
    server.context.load_verify_locations(tmp_path / "known" / "fullchain.pem")
    server.context.verify_mode = ssl.CERT_REQUIRED
    try:
        with closing(_open(known, server)) as store:
            store.migrate()
            with store.watch(Topic.MOVED) as watch:
                assert any(not watch.wait(0.3) for _ in range(60))  # It listens.
        for other in (url, unknown):
            # libpq does not always get the reason, since TLS 1.3 has no answer for it.
            with (
                closing(_open(other, server)) as store,
                pytest.raises(StoreUnavailableError),
            ):
                store.check()
    finally:
        server.context.verify_mode = ssl.CERT_NONE
