"""Outages of a service's dependencies, which show all canaries in their errors."""

import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Exchange, Fault, Reply
from tests.e2e.canaries import ALL, value
from tests.e2e.leaking_server import Failure, LeakingServer, Role
from tests.e2e.running_service import RunningService
from tests.fixtures.tenant import Tenant


@dataclass
class Outage:
    """
    One dependency fails inside of the ``with`` block of ``during()``.

    It has had its effect once the service has shown ``code`` in its log or an answer,
    and ``is_met()``: a dependency that counts failed requests (``failed``) had one.
    """

    name: str
    code: str
    during: Callable[["Outage"], AbstractContextManager[None]]
    failed: Callable[[], int] | None = None

    def is_met(self) -> bool:
        """Whether a request has failed, if they are counted."""
        return self.failed is None or self.failed() > 0


def server_outage(
    server: LeakingServer, role: Role, failure: Failure, code: str
) -> Outage:
    """Let requests to *role* fail with *failure*."""

    @contextmanager
    def during(outage: Outage) -> Iterator[None]:
        before = server.met[role, failure]
        outage.failed = lambda: server.met[role, failure] - before
        server.failures[role] = failure
        try:
            yield
        finally:
            server.failures[role] = Failure.NONE

    return Outage(f"{role}: {failure}", code, during)


def node_outages(server: LeakingServer) -> Iterator[Outage]:
    for failure in Failure:
        if failure is not Failure.NONE:
            code = (
                "execution-reverted"
                if failure is Failure.REVERT
                else "chain-unavailable"
            )
            yield server_outage(server, Role.NODE, failure, code)


def kms_outage(kms: KMSEmulator, name: str, fault: Fault, code: str) -> Outage:
    """Let every request to KMS that the service needs fail with *fault*."""

    @contextmanager
    def during(outage: Outage) -> Iterator[None]:
        failed: list[Exchange] = []

        def counted(exchange: Exchange) -> Reply | None:
            failed.append(exchange)
            return fault(exchange)

        outage.failed = lambda: len(failed)
        for operation in ("Sign", "GetPublicKey", "DescribeKey"):
            kms.faults.always(operation, counted)
        try:
            yield
        finally:
            kms.faults.clear()

    return Outage(f"KMS: {name}", code, during)


def issuer_outage(
    server: LeakingServer, service: RunningService, failure: Failure
) -> Outage:
    """Start another gunicorn worker while the issuer fails."""
    inner = server_outage(server, Role.ISSUER, failure, "worker-not-started")

    @contextmanager
    def during(outage: Outage) -> Iterator[None]:
        with inner.during(outage):
            service.processes["serve"].send_signal(signal.SIGTTIN)
            yield
        service.processes["serve"].send_signal(signal.SIGTTOU)

    return Outage(inner.name, inner.code, during)


def kms_outages(kms: KMSEmulator) -> Iterator[Outage]:
    """Yield failures of KMS, most with all canaries in the message."""
    unavailable, denied = "backend-unavailable", "backend-access-denied"
    for name, fault, code in (
        ("denied", faults.refuse("AccessDeniedException", ALL), denied),
        ("expired", faults.refuse("ExpiredTokenException", ALL), denied),
        ("disabled", faults.refuse("DisabledException", ALL, 409), "key-unusable"),
        ("not found", faults.refuse("NotFoundException", ALL), "key-not-found"),
        ("internal", faults.refuse("KMSInternalException", ALL, 500), unavailable),
        ("throttled", faults.refuse("SlowDown", ALL, 429), "backend-throttled"),
        ("unknown code", faults.refuse(ALL, ALL), "backend-failed"),
        ("garbage", faults.body(ALL.encode()), unavailable),
        ("HTML", faults.html(), unavailable),
        ("disconnects", faults.drop_reply(), unavailable),
        ("hangs", faults.hang(3), unavailable),
        ("another key", faults.other_key(), "signature-recovery"),
        ("no signature", faults.signature(ALL.encode()[:999]), "signature-encoding"),
    ):
        yield kms_outage(kms, name, fault, code)


@contextmanager
def away(path: Path) -> Iterator[None]:
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


_LEAK = """
CREATE FUNCTION leak() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN RAISE EXCEPTION '{words}' USING DETAIL = '{words}', HINT = '{words}'; END $f$;
CREATE TRIGGER leak BEFORE INSERT ON refunds EXECUTE FUNCTION leak()
"""


def database_outage(
    tenant: Tenant, name: str, begin: str, end: str, code: str, *, inside: bool = False
) -> Outage:
    """Run *begin* and disconnect all; *inside* the tenant's database, or outside."""

    @contextmanager
    def during(outage: Outage) -> Iterator[None]:
        where = tenant.database if inside else "postgres"
        tenant.execute(begin, where)
        tenant.end_connections()
        try:
            yield
        finally:
            tenant.execute(end, where)
            tenant.end_connections()  # Connections keep the settings they began with.

    return Outage(f"PostgreSQL: {name}", code, during)


def database_outages(tenant: Tenant) -> Iterator[Outage]:
    """Yield failures of PostgreSQL, whose messages name user, database and tables."""

    @contextmanager
    def crash(outage: Outage) -> Iterator[None]:
        tenant.server.crash()
        try:
            yield
        finally:
            tenant.server.__enter__()

    @contextmanager
    def password(outage: Outage) -> Iterator[None]:
        tenant.set_password("another")
        tenant.end_connections()
        try:
            yield
        finally:
            tenant.set_password(tenant.password)

    gone = "store-unavailable"
    # Braces are format fields in Python, and % starts an argument in PL/pgSQL.
    words = re.sub(r"[{}%]", " ", ALL).replace("'", "''")
    yield Outage("PostgreSQL: another password", gone, password)
    yield Outage("PostgreSQL: crashed", gone, crash)
    for name, begin, end in (
        ("no login", "ALTER ROLE {user} NOLOGIN", "ALTER ROLE {user} LOGIN"),
        (
            "connection limit",
            "ALTER ROLE {user} CONNECTION LIMIT 0",
            "ALTER ROLE {user} CONNECTION LIMIT -1",
        ),
        (
            "closed",
            "ALTER DATABASE {database} ALLOW_CONNECTIONS false",
            "ALTER DATABASE {database} ALLOW_CONNECTIONS true",
        ),
        (
            "read-only",
            "ALTER ROLE {user} SET default_transaction_read_only = on",
            "ALTER ROLE {user} RESET default_transaction_read_only",
        ),
    ):
        yield database_outage(tenant, name, begin, end, gone)
    for name, begin, end, code in (
        (
            "no table",
            "ALTER TABLE refunds RENAME TO elsewhere",
            "ALTER TABLE elsewhere RENAME TO refunds",
            "store-failed",
        ),
        (
            "no privileges",
            "ALTER TABLE refunds OWNER TO tests",
            "ALTER TABLE refunds OWNER TO {user}",
            "store-failed",
        ),
        (
            "leaks",
            _LEAK.format(words=words),
            "DROP FUNCTION leak CASCADE",
            "store-failed",
        ),
    ):
        yield database_outage(tenant, name, begin, end, code, inside=True)


def disk_outages(service: RunningService, database: Path) -> Iterator[Outage]:
    """Yield failures of a SQLite file."""

    @contextmanager
    def full(outage: Outage) -> Iterator[None]:
        limited = list(service.members())
        _limit_files(limited, 4096)
        try:
            yield
        finally:
            _limit_files(limited, resource.RLIM_INFINITY)

    @contextmanager
    def replaced(outage: Outage) -> Iterator[None]:
        aside = database.with_suffix(".aside")
        database.rename(aside)
        database.write_text(ALL * 3, encoding="utf-8")
        try:
            yield
        finally:
            aside.replace(database)

    @contextmanager
    def gone(outage: Outage) -> Iterator[None]:
        with away(database):
            yield

    yield Outage("SQLite: the disk is full", "store-unavailable", full)
    yield Outage("SQLite: the file is another", "store-unavailable", replaced)
    yield Outage("SQLite: the file is gone", "store-unavailable", gone)


def _limit_files(pids: list[int], size: int) -> None:
    """Let processes write no file larger than *size* (setrlimit(2))."""
    for pid in pids:
        if Path(f"/proc/{pid}").exists():
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def token_outages(
    tokens: Path, pin: Path, request: Callable[[], object]
) -> Iterator[Outage]:
    """
    Yield failures of a token, and of the PIN that opens it.

    The PIN is read when a lost token is back, so that the outage must *request* a
    signature while the token is gone.
    """

    @contextmanager
    def gone(outage: Outage) -> Iterator[None]:
        with away(tokens):
            yield

    @contextmanager
    def wrong(outage: Outage) -> Iterator[None]:
        with away(tokens):
            request()
            right = pin.read_text(encoding="utf-8")
            pin.write_text(value("pkcs11-wrong-pin"), encoding="utf-8")
        try:
            yield
        finally:
            pin.write_text(right, encoding="utf-8")

    @contextmanager
    def public(outage: Outage) -> Iterator[None]:
        with away(tokens):
            request()
            pin.chmod(0o644)
        try:
            yield
        finally:
            pin.chmod(0o600)

    @contextmanager
    def no_file(outage: Outage) -> Iterator[None]:
        with away(tokens):
            request()
            aside = pin.rename(pin.with_name("pin.aside"))
        try:
            yield
        finally:
            aside.rename(pin)

    yield Outage("token: removed", "backend-unavailable", gone)
    for name, during in (
        ("another PIN", wrong),
        ("a PIN that all can read", public),
        ("no PIN file", no_file),
    ):
        yield Outage(f"token: {name}", "backend-access-denied", during)
