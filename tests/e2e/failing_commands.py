"""Commands that fail, each for one reason."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.kms_emulator import KMSEmulator
from tests.e2e.canaries import core, value
from tests.e2e.leaking_server import LeakingServer
from tests.e2e.secret_environ import with_key_set
from tests.fixtures.plain_server import PlainServer
from tests.fixtures.tenant import Tenant


GUARD = ("guard",)
ROTATE = ("keys", "rotate", value("cka-id-rotated-to"), "--yes")
EXPLAIN = ("refund", "explain", "rf_0")

# Too long for a host name, so that no resolver is asked.
_LONG_HOST = core("dsn-host") + ".x" * 120


@dataclass(frozen=True)
class FailingCommand:
    """
    One command, in the environment with *changes*.

    It exits with *status*, and *message* is in its output.
    """

    name: str
    command: tuple[str, ...]
    changes: Mapping[str, str]
    status: int
    message: str = ""


def node_failures() -> Iterator[FailingCommand]:
    """Commands while all nodes fail; some need no node."""
    yield FailingCommand("nodes refuse", GUARD, {}, 78, "chain-unavailable")
    yield FailingCommand("nodes refuse, worker", ("worker", "--once"), {}, 78)
    yield FailingCommand("nodes refuse, doctor", ("doctor", "--json"), {}, 1)
    yield FailingCommand("nodes refuse, debug", GUARD, {"DEBUG": "true"}, 78)
    yield FailingCommand("keys", ("keys", "list", "--json"), {}, 0)
    yield FailingCommand("no such key to rotate to", ROTATE, {}, 1, "new-key-unhealthy")
    yield FailingCommand(
        "no such refund", ("refund", "explain", value("raw-key-bare")), {}, 1
    )
    since = ("--from", "2026-01-01")
    yield FailingCommand("reconcile", ("reconcile", *since), {}, 2, "NOT COMPARED")
    refunds = ("refund", "export", *since, "--csv", "refunds.csv")
    yield FailingCommand("export refunds", refunds, {}, 2, "chain-unavailable")
    yield FailingCommand("export", ("audit", "export"), {}, 0)
    yield FailingCommand("checkpoint", ("audit", "checkpoint", "--new"), {}, 0)
    yield FailingCommand("softhsm doctor", ("softhsm", "doctor"), {}, 0)
    yield FailingCommand("too much", ("keys", "list", value("kms-key-arn")), {}, 2)


def kms_failures(home: Path, kms: KMSEmulator) -> Iterator[FailingCommand]:
    """Commands while KMS fails, or does not answer."""
    refusing = {
        "USE_KMS": "true",
        "KMS_KEY_ID": value("kms-key-arn"),
        "AWS_REGION": value("aws-region"),
        "AWS_ENDPOINT_URL_KMS": kms.endpoint,
        "DATABASE_URL": f"sqlite:///{home}/kms.db",
    }
    absent = refusing | {
        "AWS_ENDPOINT_URL_KMS": f"http://127.0.0.1:1{value('kms-endpoint-path')}"
    }
    rotate = ("keys", "rotate", value("kms-alias-arn"), "--yes")
    yield FailingCommand("KMS refuses", GUARD, refusing, 78, "backend-access-denied")
    yield FailingCommand("KMS refuses, doctor", ("doctor", "--json"), refusing, 1)
    yield FailingCommand("KMS refuses, rotate", rotate, refusing, 1)
    yield FailingCommand("no KMS", GUARD, absent, 78, "backend-unavailable")


def setting_failures(
    home: Path, environ: dict[str, str], server: LeakingServer
) -> Iterator[FailingCommand]:
    """Settings that are wrong, or values of other variables."""
    pin = {"PKCS11_PIN": value("pkcs11-wrong-pin")}
    yield FailingCommand("wrong PIN", GUARD, pin, 77, "does not accept the PIN")
    open_pin = {"PKCS11_PIN_FILE": f"{home}/open-pin"}
    yield FailingCommand("open PIN file", GUARD, open_pin, 78, "chmod 600")
    other = {"DATABASE_URL": f"sqlite:///{home}/other.db"}
    missing = other | {"PKCS11_KEY_ID": value("cka-id-missing")}
    yield FailingCommand("missing key", GUARD, missing, 78, "pkcs11-not-configured")
    issuer = with_key_set(environ, server)
    absent = issuer | {"JWT_JWKS_URL": f"http://127.0.0.1:1{value('jwks-url-key')}"}
    yield FailingCommand("issuer refuses", GUARD, issuer, 78, "jwt-keys-unreachable")
    yield FailingCommand("no issuer", GUARD, absent, 78, "jwt-keys-unreachable")
    garbage = {"AUDIT_SIGNING_KEY_FILE": f"{home}/garbage.pem"}
    yield FailingCommand("no audit key", GUARD, garbage, 78, "audit-misconfigured")
    mixed_up = {
        "PKCS11_KEY_ID": value("pkcs11-pin"),
        "NODE_COUNT": value("dsn-password"),
        "WALLET_ADDRESS": value("raw-key"),
        "TRUSTED_PROXIES": value("jwks-url-key"),
        "JWT_ALGORITHM": value("jwt-admin"),
        "AUDIT_ORIGIN": value("kms-alias-arn") + "+",
    }
    yield FailingCommand("mixed up", GUARD, mixed_up, 78, "settings-invalid")
    check = ("config", "check")
    yield FailingCommand("mixed up, check", check, mixed_up, 78, "settings-invalid")


def database_failures(tenant: Tenant, plain: PlainServer) -> Iterator[FailingCommand]:
    """Commands with a ``DATABASE_URL`` that is wrong in one part."""
    user, database, password = tenant.user, tenant.database, tenant.password
    folder = f"host={tenant.server.folder}"
    wrong = f"{user}:{value('pkcs11-so-pin')}@/{database}?{folder}"
    cure = "correct them in DATABASE_URL"
    for command, status in (
        (GUARD, 78),
        (("serve",), 78),  # Starts gunicorn and the guard.
        (("worker", "--once"), 78),
        (("doctor",), 1),
        (("db", "upgrade"), 1),
        (("keys", "list"), 78),
        (ROTATE, 78),
        (EXPLAIN, 78),
        (("audit", "export"), 78),
        (("audit", "checkpoint"), 78),
    ):
        changes = {"DATABASE_URL": f"postgresql://{wrong}"}
        yield FailingCommand(
            f"wrong password, {' '.join(command)}", command, changes, status, cure
        )
    login = f"{user}:{password}"
    for name, url, cure in (
        ("user", f"{user}x:{password}@/{database}?{folder}", "the user does not exist"),
        ("database", f"tests@/{database}x?{folder}", "the database does not exist"),
        (
            "host",
            f"{login}@{_LONG_HOST}/{database}",
            "its host name cannot be resolved",
        ),
        ("port", f"{login}@127.0.0.1:1/{database}", "no server is listening"),
        (
            "TLS",
            f"{login}@127.0.0.1:{plain.port}/{database}?sslmode=require",
            "it does not support TLS",
        ),
    ):
        changes = {"DATABASE_URL": f"postgresql://{url}"}
        for command, status in ((GUARD, 78), (("db", "upgrade"), 1)):
            about = f"wrong {name}, {command[0]}"
            yield FailingCommand(about, command, changes, status, cure)
