"""
G19: planted secrets get out neither of commands that fail nor of a running service.

``softhsm init`` is not examined: it prints the whole id of the key that it created.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dev import kms_faults as faults
from dev import stablecoin
from dev.kms_emulator import KMSEmulator
from signer.audit.export import export
from signer.config.settings import Settings
from tests.e2e.canaries import ALL, CANARIES, Canary, Detector, value
from tests.e2e.failing_commands import (
    database_failures,
    kms_failures,
    node_failures,
    setting_failures,
)
from tests.e2e.leaking_server import Failure, LeakingServer, Role
from tests.e2e.outages import (
    Outage,
    database_outages,
    disk_outages,
    issuer_outage,
    kms_outages,
    node_outages,
    server_outage,
    token_outages,
)
from tests.e2e.recording_client import KID, RecordingClient
from tests.e2e.running_service import RunningService
from tests.e2e.secret_environ import secret_environ, with_key_set
from tests.fixtures.chain import DevChain
from tests.fixtures.plain_server import PlainServer
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.tenant import Tenant
from tests.support.forked_processes import run_command, run_commands
from tests.support.ledgers import open_ledger
from tests.support.waiting import eventually


PATIENCE = 30.0

OUR_PROGRAMS = re.compile(
    r" -m (api\.server --config python:api"
    r"|api\.cli (--no-env-file )?(serve|worker|guard)\b)"
    r"|^hotwallet worker *$|^gunicorn: (master|worker) \[hotwallet serve [a-z,]+\] *$"
)

SETTINGS: Mapping[str, str] = {
    "WEB_CONCURRENCY": "1",
    "WEB_THREADS": "8",
    "DEBUG": "true",
    # No request may be refused by a rate limit.
    "RATE_LIMIT_REFUSED": "100000",
    "RATE_LIMIT_ADMIN": "100000",
}


def _key_set() -> bytes:
    key = load_pem_private_key(value("jwt-signing-key").encode(), None)
    public = jwt.get_algorithm_by_name("ES256").to_jwk(key.public_key(), as_dict=True)
    return json.dumps({"keys": [{**public, "kid": KID, "use": "sig"}]}).encode()


@pytest.fixture
def server(local_chain: DevChain) -> Iterator[LeakingServer]:
    """Node, issuer and webhook."""
    with LeakingServer(local_chain.url, _key_set()) as server:
        yield server


@pytest.fixture
def kms(aws_environment: None) -> Iterator[KMSEmulator]:
    with KMSEmulator() as emulator:
        yield emulator


@pytest.fixture
def tenant(postgresql: PostgreSQL) -> Iterator[Tenant]:
    """A user and a database whose names and password are canaries."""
    names = ("dsn-user", "dsn-password", "dsn-database")
    with Tenant(postgresql, *map(value, names)) as tenant:
        yield tenant


def test_commands_that_fail(
    tmp_path: Path, server: LeakingServer, kms: KMSEmulator, tenant: Tenant
) -> None:
    """More than forty failures, each with its status and message."""
    server.failures = dict.fromkeys(Role, Failure.UNAVAILABLE)
    # The service retries other failures of the webhook for five seconds.
    server.failures[Role.WEBHOOK] = Failure.FORBIDDEN
    for operation in ("GetPublicKey", "Sign", "DescribeKey"):
        kms.faults.always(operation, faults.refuse("AccessDeniedException", ALL))
    detector = Detector(CANARIES.values())
    home = tmp_path / "home"
    environ = secret_environ(home, server)
    # The guard adds the key to the ring.
    setup = [(("softhsm", "init"), environ), (("guard",), environ)]
    made, _ = (run_command(*each) for each in setup)
    assert made.returncode == 0, made.stderr
    with PlainServer() as plain:
        runs = [
            *node_failures(),
            *kms_failures(home, kms),
            *setting_failures(home, environ, server),
            *database_failures(tenant, plain),
        ]
        done = run_commands(
            (each.command, {**environ, **each.changes}) for each in runs
        )

    shown = {"alerts": "\n".join(server.alerts)}
    wrong = {}
    for each, finished in zip(runs, done, strict=True):
        shown[f"{each.name}: stdout"] = finished.stdout
        shown[f"{each.name}: stderr"] = finished.stderr
        output = finished.stdout + finished.stderr
        if finished.returncode != each.status or each.message not in output:
            wrong[each.name] = (finished.returncode, output[-500:])

    assert wrong == {}
    assert "rotation-refused" in shown["alerts"]
    assert detector.leaks(shown) == {}
    assert len(runs) > 40
    assert detector.checked >= 50 * 2 * len(runs)


def _await_effect(
    service: RunningService, client: RecordingClient, outage: Outage
) -> None:
    """Send requests until *outage* had its effect, and then until it is over."""
    with outage.during(outage):
        # An outage that is just over may be reported for another second.
        is_effective = eventually(
            lambda: _is_reported(service, client, outage.code) and outage.is_met(),
            PATIENCE,
        )
        assert is_effective, f"no effect: {outage.name}"
        service.record_command_lines()
    is_over = eventually(lambda: client.request_refund() == 201, PATIENCE)
    assert is_over, f"not over: {outage.name}"


def _is_reported(service: RunningService, client: RecordingClient, code: str) -> bool:
    """Send all requests once; return whether an answer or the log has *code*."""
    mark = service.mark()
    answers = "".join(client.request_all())
    code = f'"{code}"'
    return eventually(
        lambda: code in answers + json.dumps(list(service.events(mark))), patience=2
    )


def _run_outages(
    service: RunningService, client: RecordingClient, outages: Iterable[Outage]
) -> list[str]:
    """Go through *outages* one after the other; return their names."""
    client.request_all()
    client.send_malformed_requests()
    names = []
    for outage in outages:
        _await_effect(service, client, outage)
        names.append(outage.name)
    return names


def _assert_no_leaks(
    service: RunningService,
    client: RecordingClient,
    server: LeakingServer,
    url: str,
    secret: list[Canary],
) -> None:
    """Examine all output, answers, alerts, command lines and the audit export."""
    with closing(open_ledger(url)) as store:
        audit_export = b"".join(export(store, "hotwallet/canary")).decode()
    shown = {
        **service.output,
        **{f"answer {at}": text for at, text in enumerate(client.answers)},
        "ps": "\n".join(service.command_lines),
        "alerts": "\n".join(server.alerts),
        "export": audit_export,
    }
    detector = Detector([*CANARIES.values(), *client.tokens, *secret])

    assert detector.leaks(shown) == {}
    assert "rotation-refused" in shown["alerts"]
    assert "key-rotate-requested" in audit_export
    assert "hotwallet_alerts_total" in "".join(client.answers)
    assert len(client.answers) > 200


def test_a_service_with_softhsm_and_sqlite(
    tmp_path: Path, local_chain: DevChain, server: LeakingServer
) -> None:
    """With a token and a file, during more than twenty outages."""
    home = tmp_path / "home"
    pin = home / "softhsm" / "pin"
    environ = {**secret_environ(home, server, local_chain.token), **SETTINGS}
    environ["PKCS11_PIN_FILE"] = str(pin)
    made = run_command(["softhsm", "init", "--json"], environ)
    assert made.returncode == 0, made.stderr
    stablecoin.fund(
        local_chain.url, json.loads(made.stdout)["address"], token=local_chain.token
    )
    names = itertools.cycle([value("cka-id-missing"), value("cka-id-rotated-to")])
    with RunningService(environ, has_interpreters=True) as service:
        client = RecordingClient(service.port, Settings.from_env(environ), names)
        outages = (
            *node_outages(server),
            server_outage(server, Role.WEBHOOK, Failure.FORBIDDEN, "alert-not-sent"),
            server_outage(server, Role.WEBHOOK, Failure.REDIRECT, "alert-not-sent"),
            *disk_outages(service, home / "hotwallet.db"),
            *token_outages(home / "softhsm" / "tokens", pin, client.request_refund),
        )
        done = _run_outages(service, client, outages)

    assert len(done) > 20
    _assert_no_leaks(service, client, server, f"sqlite:///{home}/hotwallet.db", [])
    # Only our own programs inherit the environment.
    others = [line for line in service.command_lines if not OUR_PROGRAMS.search(line)]
    assert others == []
    assert any("api.cli --no-env-file guard" in line for line in service.command_lines)


def _canaries(*names: str) -> list[Canary]:
    return [Canary(name, name, name) for name in names]


def test_a_service_with_kms_and_postgresql(
    tmp_path: Path,
    local_chain: DevChain,
    server: LeakingServer,
    kms: KMSEmulator,
    tenant: Tenant,
) -> None:
    """With KMS, a server and an issuer, during more than twenty outages."""
    first, other = kms.create_key(), kms.create_key()
    for arn in (first, other):
        stablecoin.fund(local_chain.url, kms.address(arn), token=local_chain.token)
    names = itertools.cycle([value("kms-alias-arn"), value("kms-key-mrk"), other])
    environ = {
        **with_key_set(
            secret_environ(tmp_path / "home", server, local_chain.token), server
        ),
        **SETTINGS,
        "USE_KMS": "true",
        "KMS_KEY_ID": first,
        "AWS_REGION": kms.region,
        "AWS_ENDPOINT_URL_KMS": kms.endpoint + value("kms-endpoint-path"),
        "DATABASE_URL": tenant.url,
    }
    webhook = server_outage(server, Role.WEBHOOK, Failure.RESET, "alert-not-sent")
    with RunningService(environ) as service:
        client = RecordingClient(service.port, Settings.from_env(environ), names)
        outages = (
            *kms_outages(kms),
            *database_outages(tenant),
            issuer_outage(server, service, Failure.UNAVAILABLE),
        )
        # The service retries an alert for five seconds.
        with webhook.during(webhook):
            done = _run_outages(service, client, outages)
            code = f'"{webhook.code}"'
            abandoned = eventually(lambda: code in "".join(service.output.values()))

    assert len(done) > 20
    assert webhook.is_met()
    assert abandoned
    _, _, _, region, account, _ = first.split(":")
    secret = _canaries(first, other, region, account, str(tenant.server.folder))
    _assert_no_leaks(service, client, server, tenant.url, secret)
