"""Fixtures for the tests of the command line."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from backends.json_rpc import JSONRPCChain
from backends.sql import SQLStore
from backends.sql.audit import AuditTables
from backends.sql.database import Database
from dev import stablecoin as coin
from signer.config.networks import load_networks
from signer.model.refund import Refund
from signer.ports.clock import utc_now
from tests.api.administrators import ADMIN
from tests.api.cli.audit_commands import LINKS
from tests.api.commands import AsAdministrator, Finished, Run
from tests.api.networks import write_networks
from tests.api.support import AUDIENCE, ES256_KEY, ISSUER, token
from tests.fixtures.chain import DevChain
from tests.support.audit import KEY, exported
from tests.support.ledgers import ROW_MACS, write_mac_key
from tests.support.refunds import World


_ids = itertools.count(1)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory with an export, its public key, and a signing key."""
    monkeypatch.chdir(tmp_path)
    Path("export").write_bytes(b"".join(exported(LINKS, [2])))
    Path("key.pub.pem").write_bytes(KEY.public_pem())
    Path("key").write_bytes(KEY.private_pem())
    Path("key").chmod(0o600)
    return tmp_path


@pytest.fixture
def journal(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> AuditTables:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("MAC_KEY_FILE", str(write_mac_key(tmp_path)))
    monkeypatch.setenv("AUDIT_ORIGIN", "tests")
    return AuditTables(Database(sqlite_url, pool_size=1, timeout=5.0), ROW_MACS)


@pytest.fixture
def node_url(request: pytest.FixtureRequest) -> str:
    """The node of the network: anvil for a test that has it, and otherwise none."""
    if "fresh_anvil" not in request.fixturenames:
        return "http://127.0.0.1:9"
    return str(request.getfixturevalue("fresh_anvil").url)


@pytest.fixture
def networks(
    tmp_path: Path, node_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Return a function that writes the networks file, and returns its path."""
    path = tmp_path / "networks.toml"
    monkeypatch.setenv("NETWORKS_FILE", str(path))

    def write(
        url: str = node_url, confirmations: int = 1, vault: str | None = None
    ) -> Path:
        return write_networks(path, url, confirmations=confirmations, vault=vault)

    write()
    return write


@pytest.fixture
def run(
    tmp_path: Path,
    sqlite_url: str,
    networks: object,
    hotwallet: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("MAC_KEY_FILE", str(write_mac_key(tmp_path)))
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    return hotwallet


@pytest.fixture
def world(
    sqlite_store: SQLStore, fresh_anvil: DevChain, networks: Callable[..., Path]
) -> World:
    """A service that pays on anvil from a funded wallet."""
    client = JSONRPCChain([fresh_anvil.url], timeout=10, chain_id=31337)
    network = load_networks(networks())["local"]
    world = World(sqlite_store, client=client, network=network)
    world.clock.now = utc_now()
    coin.fund(fresh_anvil.url, world.signer.address, token=fresh_anvil.token)
    return world


@pytest.fixture
def paid(world: World) -> Refund:
    """A refund whose transaction anvil has."""
    return world.broadcast()


@pytest.fixture
def approving(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    path = tmp_path / "jwt.pub.pem"
    path.write_bytes(
        ES256_KEY.public_key().public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )
    )
    monkeypatch.setenv("JWT_PUBLIC_KEY_FILE", str(path))
    monkeypatch.setenv("JWT_ISSUER", ISSUER)
    monkeypatch.setenv("JWT_AUDIENCE", AUDIENCE)
    monkeypatch.setenv("REQUIRE_APPROVALS", "true")
    return run


@pytest.fixture
def as_administrator(
    approving: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsAdministrator:
    """Return a function that runs ``hotwallet`` with a new token."""

    def run_as(sub: str, scope: str, *command: str) -> Finished:
        path = tmp_path / "token"
        claims = {**ADMIN, "sub": sub, "scope": scope, "jti": f"cli-{next(_ids)}"}
        path.write_text(token(utc_now(), **claims), encoding="ascii")
        path.chmod(0o600)
        monkeypatch.setenv("OPERATOR_TOKEN_FILE", str(path))
        finished = approving(*command)
        monkeypatch.delenv("OPERATOR_TOKEN_FILE")
        return finished

    return run_as
