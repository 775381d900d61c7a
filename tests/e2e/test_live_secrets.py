"""
G19: a service full of planted secrets serves, while everything under it fails in turn.

What gets out is looked through: output of every process, answers with their headers,
metrics, the audit's export, alerts, and command lines.
"""

import itertools
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from backends.sql import SQLStore
from dev import stablecoin
from dev.kms_emulator import KMSEmulator
from signer.audit.export import export
from signer.config.settings import Settings
from tests.e2e.gossip import Gossip, Mood, Role
from tests.e2e.planted import by_key_set, planted
from tests.e2e.troubles import (
    Trouble,
    gossip_trouble,
    issuer_trouble,
    kms_troubles,
    node_troubles,
)
from tests.e2e.troubles_of_databases import database_troubles, disk_troubles
from tests.e2e.troubles_of_tokens import token_troubles
from tests.e2e.victim import Victim
from tests.e2e.visitor import KID, Visitor
from tests.fixtures.chain import DevChain
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.tenant import Tenant
from tests.support.canaries import CANARIES, Canary, Detector, value
from tests.support.preloaded import run
from tests.support.waiting import eventually


PATIENCE = 30.0

OURS = re.compile(
    r" -m (api\.server --config python:api"
    r"|api\.cli (--no-env-file )?(serve|worker|guard)\b)"
)

LEAN: Mapping[str, str] = {
    "WEB_CONCURRENCY": "1",
    "WEB_THREADS": "8",
    "DEBUG": "true",
    # Nobody is to be turned away before what is looked for happens.
    "RATE_LIMIT_REFUSED": "100000",
    "RATE_LIMIT_ADMIN": "100000",
}


def _key_set() -> bytes:
    key = load_pem_private_key(value("jwt-signing-key").encode(), None)
    public = jwt.get_algorithm_by_name("ES256").to_jwk(key.public_key(), as_dict=True)
    return json.dumps({"keys": [{**public, "kid": KID, "use": "sig"}]}).encode()


@pytest.fixture
def gossip(anvil: DevChain) -> Iterator[Gossip]:
    """Node, issuer and webhook."""
    with Gossip(anvil.url, _key_set()) as server:
        yield server


@pytest.fixture
def kms(aws_environment: None) -> Iterator[KMSEmulator]:
    """A KMS for one test alone."""
    with KMSEmulator() as emulator:
        yield emulator


def _suffer(victim: Victim, visitor: Visitor, trouble: Trouble) -> None:
    """Ask in the middle of *trouble*, until it was told; then, until it is over."""
    deadline = time.monotonic() + PATIENCE
    with trouble.during(trouble):
        while not _is_told(victim, visitor, trouble.code):
            assert time.monotonic() < deadline, f"not reached: {trouble.name}"
        victim.look()
    assert trouble.met is None or trouble.met > 0, f"not met: {trouble.name}"
    while visitor.pay() != 201:
        assert time.monotonic() < deadline, f"not over: {trouble.name}"
        time.sleep(0.05)


def _is_told(victim: Victim, visitor: Visitor, code: str) -> bool:
    """Ask for everything once; say whether an answer or, in a while, the log has it."""
    mark, until = victim.mark(), time.monotonic() + 2
    answers = "".join(visitor.visit())
    word = f'"{code}"'
    while word not in answers + json.dumps(list(victim.events(mark))):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _suffer_all(
    victim: Victim, visitor: Visitor, troubles: Iterable[Trouble]
) -> list[str]:
    """Suffer *troubles*, one after the other, and misbehave; return their names."""
    visitor.visit()
    visitor.misbehave()
    told = []
    for trouble in troubles:
        _suffer(victim, visitor, trouble)
        told.append(trouble.name)
    return told


def _judge(
    victim: Victim, visitor: Visitor, gossip: Gossip, url: str, secret: list[Canary]
) -> None:
    """Look through everything that got out."""
    with closing(SQLStore(url)) as store:
        evidence = b"".join(export(store, "hotwallet/canary")).decode()
    shown = {
        **victim.said,
        **{f"answer {at}": text for at, text in enumerate(visitor.answers)},
        "ps": "\n".join(victim.command_lines),
        "alerts": "\n".join(gossip.alerts),
        "export": evidence,
    }
    detector = Detector([*CANARIES.values(), *visitor.tokens, *secret])

    assert detector.leaks(shown) == {}
    # Whoever inherits the environment is one of ours: gunicorn, the guard, a worker.
    others = [line for line in victim.command_lines if not OURS.search(line)]
    assert others == []
    assert any("api.cli --no-env-file guard" in line for line in victim.command_lines)
    assert "rotation-refused" in shown["alerts"]
    assert "key-rotate-requested" in evidence
    assert "hotwallet_alerts_total" in "".join(visitor.answers)
    assert len(visitor.answers) > 200


def test_softhsm_and_sqlite(tmp_path: Path, anvil: DevChain, gossip: Gossip) -> None:
    """With a token and a file, twenty troubles: no output has a canary."""
    home = tmp_path / "home"
    pin = home / "softhsm" / "pin"
    environ = {**planted(home, gossip, anvil.token), **LEAN}
    environ["PKCS11_PIN_FILE"] = str(pin)
    (made,) = run(tmp_path / "runs", [(["softhsm", "init", "--json"], environ)])
    assert made.status == 0, made.stderr
    stablecoin.fund(anvil.url, json.loads(made.stdout)["address"], token=anvil.token)
    names = itertools.cycle([value("cka-id-missing"), value("cka-id-rotated-to")])
    with Victim(environ) as victim:
        visitor = Visitor(victim.port, Settings.from_env(environ), names)
        troubles = (
            *node_troubles(gossip),
            gossip_trouble(gossip, Role.WEBHOOK, Mood.FORBIDDEN, "alert-not-sent"),
            gossip_trouble(gossip, Role.WEBHOOK, Mood.REDIRECT, "alert-not-sent"),
            *disk_troubles(victim, home / "hotwallet.db"),
            *token_troubles(home / "softhsm" / "tokens", pin, visitor.pay),
        )
        told = _suffer_all(victim, visitor, troubles)

    assert len(told) > 20
    _judge(victim, visitor, gossip, f"sqlite:///{home}/hotwallet.db", [])


def _named(*names: str) -> list[Canary]:
    return [Canary(name, name, name) for name in names]


def test_kms_and_postgresql(
    tmp_path: Path,
    anvil: DevChain,
    gossip: Gossip,
    kms: KMSEmulator,
    postgresql: PostgreSQL,
) -> None:
    """With KMS, a server and an issuer, twenty troubles: no output has a canary."""
    first, other = kms.create_key(), kms.create_key()
    for arn in (first, other):
        stablecoin.fund(anvil.url, kms.address(arn), token=anvil.token)
    names = itertools.cycle([value("kms-alias-arn"), value("kms-key-mrk"), other])
    login = map(value, ("dsn-user", "dsn-password", "dsn-database"))
    with Tenant(postgresql, *login) as tenant:
        environ = {
            **by_key_set(planted(tmp_path / "home", gossip, anvil.token), gossip),
            **LEAN,
            "USE_KMS": "true",
            "KMS_KEY_ID": first,
            "AWS_REGION": kms.region,
            "AWS_ENDPOINT_URL_KMS": kms.endpoint + value("kms-endpoint-path"),
            "DATABASE_URL": tenant.url,
        }
        webhook = gossip_trouble(gossip, Role.WEBHOOK, Mood.RESET, "alert-not-sent")
        with Victim(environ) as victim:
            visitor = Visitor(victim.port, Settings.from_env(environ), names)
            troubles = (
                *kms_troubles(kms),
                *database_troubles(tenant),
                issuer_trouble(gossip, victim, Mood.UNAVAILABLE),
            )
            # All the while: an alert is only given up after five seconds.
            with webhook.during(webhook):
                told = _suffer_all(victim, visitor, troubles)
                word = f'"{webhook.code}"'
                given_up = eventually(lambda: word in "".join(victim.said.values()))

        assert len(told) > 20
        assert webhook.met
        assert given_up
        _, _, _, region, account, _ = first.split(":")
        secret = _named(first, other, region, account, str(postgresql.folder))
        _judge(victim, visitor, gossip, tenant.url, secret)
