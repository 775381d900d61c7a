"""What ``hotwallet doctor`` looks at before it comes to the chains, in its order."""

import time
from collections.abc import Iterator

from api.auth.jwt_verifier import JWTVerifier
from api.doctor.checks import Check, Finding
from api.doctor.context import DoctorContext
from api.doctor.key_checks import key_steps
from api.health.readiness import (
    AuditUnsealedError,
    AuditUnsignedError,
    unsealed_seconds,
)
from api.logs import audit_logger
from signer.audit.chain_reader import newest_checkpoint, require_agreement
from signer.audit.checkpoint_notes import parse
from signer.audit.checkpoint_schedule import find_unsigned
from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.audit.log import AuditAction, AuditLog
from signer.audit.sealing_monitor import LATE
from signer.config.networks import load_networks
from signer.config.settings import Settings
from signer.errors import InvalidInputError
from signer.model.audit_record import Actor, Operation
from signer.ports import Checkpoint
from signer.startup.guard import check_journal, check_settings


DOCTOR = Actor("doctor")

_SEAL_SECONDS = 5.0
_LOOK_SECONDS = 0.25

_GUARD = "docs/guard.md has the cure for each code"


def steps(patient: DoctorContext) -> Iterator[Check]:
    """Yield the steps up to the database and the key; the chains come after them."""
    yield Check(
        "settings",
        lambda: _settings(patient),
        "correct the variable; docs/configuration.md lists them",
    )
    yield Check(
        "networks",
        lambda: _networks(patient),
        "correct the TOML file; docs/networks.md shows a good one",
        ("settings",),
    )
    # Without the networks as well: what else is wrong must not wait for them.
    yield Check("guard", lambda: _guard(patient), _GUARD, ("settings",))
    yield Check("proxy", lambda: _proxy(patient), _GUARD, ("settings",))
    yield Check("tokens", lambda: _tokens(patient), "docs/auth.md", ("settings",))
    yield Check(
        "database",
        lambda: _database(patient),
        "hotwallet db upgrade; docs/operations/database-down.md",
        ("settings",),
    )
    yield Check("role", lambda: _role(patient), _GUARD, ("database",))
    # Which key serves, the ring says: they are made when it was read.
    yield from key_steps(patient)
    yield Check(
        "audit",
        lambda: _audit(patient),
        "`hotwallet serve` and `hotwallet worker` seal records: does one of them run?",
        ("database",),
    )
    yield Check(
        "checkpoints",
        lambda: _checkpoints(patient),
        'docs/audit.md, "When nobody signs"; docs/guard.md for a refusal',
        ("database",),
    )


def _settings(patient: DoctorContext) -> Finding:
    patient.settings = Settings.from_env(patient.environ)
    return Finding(str(patient.settings.app_env))


def _networks(patient: DoctorContext) -> Finding:
    patient.networks = load_networks(patient.settings.networks_file)
    return Finding(", ".join(sorted(patient.networks)))


def _guard(patient: DoctorContext) -> Finding:
    warnings = check_settings(patient.settings, patient.networks)
    if warnings:
        return Finding("; ".join(warnings), "nothing on a laptop; docs/guard.md")
    return Finding("nothing to refuse")


def _proxy(patient: DoctorContext) -> Finding:
    settings = patient.settings
    if settings.trusted_proxies:
        named = ", ".join(settings.trusted_proxies)
        return Finding(f"requests are taken from {named}, and from nobody else")
    if settings.is_production:
        return Finding(
            "none is named: all callers share one limit of bad tokens",
            "name it in TRUSTED_PROXIES; docs/operations/deploy.md",
        )
    return Finding("none is named, and none is needed here")


def _tokens(patient: DoctorContext) -> Finding:
    JWTVerifier.from_settings(patient.settings)
    return Finding(f"verified with {patient.settings.jwt_algorithm}")


def _database(patient: DoctorContext) -> Finding:
    store = patient.openers.store(patient.settings)
    store.check()
    patient.store = store
    patient.active = store.active_key()
    patient.is_ring_read = True
    if patient.active is not None:
        patient.address = patient.active.address
    patient.audit = AuditLog(audit_logger(), patient.clock, journal=store)
    # To write is the only way to know that one may.
    patient.written = patient.audit.request(
        AuditAction.DOCTOR_RUN, Operation.ADMINISTRATION, DOCTOR
    )
    patient.audit.write(patient.written)
    return Finding("answers, has our schema, and was written to")


def _role(patient: DoctorContext) -> Finding:
    check_journal(patient.settings, patient.store)
    found = patient.store.excess_privileges()
    if found:
        return Finding(
            f"the database's role {', '.join(found)}",
            "nothing on a laptop; docs/database.md has the grants for production",
        )
    if patient.settings.effective_database_url.startswith("sqlite"):
        return Finding("whoever may write SQLite's file may change the audit")
    return Finding("can add to the audit, and not change it")


def _audit(patient: DoctorContext) -> Finding:
    """Wait for the seal of this run's own record: then somebody is at work."""
    until = time.monotonic() + _SEAL_SECONDS
    oldest = patient.store.oldest_unsealed()
    while oldest is not None and oldest <= patient.written.id:
        if unsealed_seconds(oldest, patient.clock) > LATE.total_seconds():
            raise AuditUnsealedError("records have waited for over 30 seconds")
        if time.monotonic() > until:
            raise AuditUnsealedError("this run's own record was not sealed in 5 s")
        time.sleep(_LOOK_SECONDS)
        oldest = patient.store.oldest_unsealed()
    size, _ = patient.store.head()
    return Finding(f"{size} records sealed, this run's too")


def _checkpoints(patient: DoctorContext) -> Finding:
    path = patient.settings.audit_signing_key_file
    made = patient.settings.home / "audit.pem"  # By the service itself, on a laptop.
    if path is None and not patient.settings.is_production and made.exists():
        path = made
    if path is None:
        return Finding(
            "nobody signs for the audit's length",
            "set AUDIT_SIGNING_KEY_FILE; docs/guard.md says how to make one",
        )
    key = CheckpointKey.load(path)
    said = f"signed as {patient.settings.audit_origin}: {_signed(patient)}"
    last = newest_checkpoint(patient.store)
    if last is not None and not _is_by(key, last):
        return Finding(
            f"{said}; the last checkpoint is not by this host's key",
            "docs/operations/alarms.md, `audit-checkpoint-of-another-key`",
        )
    return Finding(said)


def _is_by(key: CheckpointKey, checkpoint: Checkpoint) -> bool:
    try:
        Verifier(key.public_pem()).verify(checkpoint.note)
    except InvalidInputError:
        return False
    return True


def _signed(patient: DoctorContext) -> str:
    """Require that somebody signs, for a chain that has what was signed for last."""
    last = newest_checkpoint(patient.store)
    size, at = (last.size, last.at) if last is not None else (0, None)
    if last is not None:
        require_agreement(patient.store, parse(last.note).statement)
    behind = find_unsigned(patient.store, size, at, patient.clock())
    if behind.is_overdue:
        raise AuditUnsignedError(
            f"nobody has signed for the last {behind.records} records"
        )
    return f"{size} records, and {behind.records} not yet"
