"""What ``hotwallet doctor`` looks at before it comes to the chains, in its order."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from api.assembly import open_signer
from api.auth import Authenticator
from api.health import AuditUnsealedError, unsealed_seconds
from api.ladder import Finding, Step
from api.logs import audit_logger
from signer.audit.checkpoints import CheckpointKey
from signer.audit.lateness import LATE
from signer.audit.log import AuditLog
from signer.audit.record import Actor, Operation, Record
from signer.der import parse_public_key
from signer.guard import check_settings
from signer.networks import Network, load_networks
from signer.ports import Clock, KeyDirectory, Ledger, utc_now
from signer.redact import key_prefix
from signer.refunds.watching import Chain
from signer.settings import Settings
from signer.signing import Signer


DOCTOR = Actor("doctor")

_SEAL_SECONDS = 5.0
_LOOK_SECONDS = 0.25

_GUARD = "docs/guard.md has the cure for each code"


@dataclass(frozen=True, slots=True)
class Openers:
    """How the outside world is opened: what ``api/bootstrap.py`` has for it."""

    store: Callable[[Settings], Ledger]
    backend: Callable[[Settings], KeyDirectory]
    chains: Callable[[Mapping[str, Network]], Mapping[str, Chain]]


@dataclass
class Patient:
    """
    What is known so far.  A rung writes down what those that stand on it need.

    What is not known yet raises ``AttributeError``: a step that forgot its needs.
    """

    environ: Mapping[str, str]
    openers: Openers
    clock: Clock = utc_now
    networks: Mapping[str, Network] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)
    address: str | None = None
    is_enrolled: bool = False
    settings: Settings = field(init=False)
    backend: KeyDirectory = field(init=False)
    store: Ledger = field(init=False)
    audit: AuditLog = field(init=False)
    written: Record = field(init=False)
    signer: Signer = field(init=False)

    @property
    def key_name(self) -> str:
        """What the configuration calls the key."""
        if self.settings.use_kms:
            return self.settings.kms_key_id or ""
        return self.settings.pkcs11_key_id


def steps(patient: Patient) -> Iterator[Step]:
    """Yield the steps up to the database and the key; the chains come after them."""
    yield Step(
        "settings",
        lambda: _settings(patient),
        "correct the variable; docs/configuration.md lists them",
    )
    yield Step(
        "networks",
        lambda: _networks(patient),
        "correct the TOML file; docs/networks.md shows a good one",
        ("settings",),
    )
    # Without the networks as well: what else is wrong must not wait for them.
    yield Step("guard", lambda: _guard(patient), _GUARD, ("settings",))
    yield Step("proxy", lambda: _proxy(patient), _GUARD, ("settings",))
    yield Step("tokens", lambda: _tokens(patient), "docs/auth.md", ("settings",))
    yield Step("device", lambda: _device(patient), _device_cure(patient), ("settings",))
    yield Step(
        "database",
        lambda: _database(patient),
        "hotwallet db upgrade; docs/operations/database-down.md",
        ("settings",),
    )
    yield Step(
        "key",
        lambda: _key(patient),
        "hotwallet keys list; docs/operations/hsm-down.md",
        ("database", "device"),
    )
    yield Step(
        "signature",
        lambda: _signature(patient),
        "docs/operations/hsm-down.md has a row for each code",
        ("key",),
    )
    yield Step(
        "audit",
        lambda: _audit(patient),
        "records are sealed by `hotwallet worker`: is it running?",
        ("database",),
    )
    yield Step("checkpoints", lambda: _checkpoints(patient), _GUARD, ("settings",))


def _settings(patient: Patient) -> Finding:
    patient.settings = Settings.from_env(patient.environ)
    return Finding(str(patient.settings.app_env))


def _networks(patient: Patient) -> Finding:
    patient.networks = load_networks(patient.settings.networks_file)
    return Finding(", ".join(sorted(patient.networks)))


def _guard(patient: Patient) -> Finding:
    warnings = check_settings(patient.settings, patient.networks)
    if warnings:
        return Finding("; ".join(warnings), "nothing on a laptop; docs/guard.md")
    return Finding("nothing to refuse")


def _proxy(patient: Patient) -> Finding:
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


def _tokens(patient: Patient) -> Finding:
    Authenticator.from_settings(patient.settings)
    return Finding(f"verified with {patient.settings.jwt_algorithm}")


def _device_cure(patient: Patient) -> str:
    settings = getattr(patient, "settings", None)
    if settings is not None and settings.use_kms:
        return "check credentials, AWS_REGION and KMS_KEY_ID; docs/kms.md"
    return "hotwallet softhsm doctor"


def _device(patient: Patient) -> Finding:
    patient.backend = patient.openers.backend(patient.settings)
    key_id = patient.backend.resolve(patient.key_name)
    key = parse_public_key(patient.backend.public_key(key_id))
    patient.address = key.address
    return Finding(f"{patient.backend.name}: {key_prefix(key_id)} is {key.address}")


def _database(patient: Patient) -> Finding:
    store = patient.openers.store(patient.settings)
    store.check()
    patient.store = store
    patient.audit = AuditLog(audit_logger(), patient.clock, journal=store)
    # To write is the only way to know that one may.
    patient.written = patient.audit.event("doctor", Operation.ADMINISTRATION, DOCTOR)
    patient.audit.write(patient.written)
    return Finding("answers, has our schema, and was written to")


def _key(patient: Patient) -> Finding:
    active = patient.store.active_key()
    if active is None:
        return _unenrolled(patient)
    patient.address = active.address
    patient.is_enrolled = True
    patient.signer = open_signer(patient.backend, patient.audit, active)
    return Finding(
        f"epoch {active.epoch}: {active.backend} {key_prefix(active.key_id)},"
        f" {active.address}"
    )


def _unenrolled(patient: Patient) -> Finding:
    patient.signer = Signer.open(
        patient.backend,
        patient.backend.resolve(patient.key_name),
        patient.audit,
        expected_address=patient.settings.wallet_address,
    )
    return Finding(
        "the ledger has no key yet, so the configured one is looked at",
        "`hotwallet guard` makes it the first one",
    )


def _signature(patient: Patient) -> Finding:
    began = time.monotonic()
    patient.signer.self_test(while_active=patient.is_enrolled)
    milliseconds = (time.monotonic() - began) * 1000
    return Finding(f"recovers to {patient.signer.address}, in {milliseconds:.0f} ms")


def _audit(patient: Patient) -> Finding:
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


def _checkpoints(patient: Patient) -> Finding:
    path = patient.settings.audit_signing_key_file
    made = patient.settings.home / "audit.pem"  # By the service itself, on a laptop.
    if path is None and not patient.settings.is_production and made.exists():
        path = made
    if path is None:
        return Finding(
            "nobody signs for the audit's length",
            "set AUDIT_SIGNING_KEY_FILE; docs/guard.md says how to make one",
        )
    CheckpointKey.load(path)
    return Finding(f"signed as {patient.settings.audit_origin}")
