"""Rotation with keys of emulators of both clouds, and of a SoftHSM token."""

import secrets
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backends.aws_kms.backend import KMSBackend
from backends.google_cloud_kms.backend import GoogleCloudKMSBackend
from backends.pkcs11 import PKCS11Backend
from backends.sql import SQLStore
from dev import kms_faults as faults
from dev.google_kms_emulator import GoogleKMSEmulator
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Exchange, Fault, Faults, Reply
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.crypto.der import parse_public_key
from signer.errors import InvalidInputError, NewKeyUnhealthyError
from signer.keys.rotation import Rotation
from signer.keys.signer import SignerFactory
from signer.model.key import Key
from signer.ports.clock import utc_now
from signer.ports.key_backend import KeyDirectory, KeyId
from tests.support.keys import key_at
from tests.support.ledgers import seal
from tests.support.ring import ALICE, SILENCE
from tests.unit.signer.keys.conftest import Hang


def _rotation(store: SQLStore, device: KeyDirectory) -> Rotation:
    audit = AuditLog(SILENCE, journal=store)
    return Rotation(
        store,
        SignerFactory(device, audit),
        read_balances=lambda address: (),
        require_operator=lambda address: None,
        alerts=Alerts(store),
        clock=utc_now,
    )


def _enrolled(store: SQLStore, device: KeyDirectory, key_id: str) -> Key:
    address = parse_public_key(device.public_key(KeyId(key_id))).address
    return store.enrol(key_at(address, key_id=key_id))


def _require_refused(
    store: SQLStore, device: KeyDirectory, name: str, reason: str
) -> None:
    """Require that a rotation to *name* is refused and changes nothing."""
    before = store.active_key()
    with pytest.raises(NewKeyUnhealthyError) as raised:
        _rotation(store, device).rotate(name, ALICE)

    assert raised.value.reason == reason
    assert name not in str(raised.value)
    assert "arn:" not in str(raised.value)
    assert store.active_key() == before
    alerts = 0 if reason == "key-not-found" else 1  # A typo raises no alert.
    assert dict(store.alert_counts()).get("rotation-refused", 0) == alerts
    seal(store)
    recorded = [each.record.fields for each in store.sealed(0, 100)]
    assert ("key-rotate-refused", reason) in [
        (e["event"], e.get("outcome")) for e in recorded
    ]
    assert name not in str(recorded)


@pytest.fixture
def kms_store(sqlite_store: SQLStore, kms: KMSBackend, kms_key: KeyId) -> SQLStore:
    """A ledger whose active key is in KMS."""
    _enrolled(sqlite_store, kms, kms_key)
    return sqlite_store


Spoil = Callable[[KMSEmulator], str]

KEYS: dict[str, tuple[Spoil, str]] = {
    "missing": (lambda kms: kms.create_key()[:-12] + "000000000000", "key-not-found"),
    "disabled": (lambda kms: _in_state(kms, "Disabled"), "key-unusable"),
    "pending deletion": (lambda kms: _in_state(kms, "PendingDeletion"), "key-unusable"),
    "wrong curve": (lambda kms: kms.create_key(spec="ECC_NIST_P256"), "key-unusable"),
    "wrong usage": (
        lambda kms: kms.create_key(spec="RSA_2048", usage="ENCRYPT_DECRYPT"),
        "key-unusable",
    ),
}


def _in_state(kms: KMSEmulator, state: str) -> str:
    arn = kms.create_key()
    kms.set_state(arn, state)
    return arn


@pytest.mark.parametrize(("spoil", "reason"), KEYS.values(), ids=KEYS)
def test_unusable_kms_key_is_refused(
    *,
    kms_store: SQLStore,
    kms: KMSBackend,
    kms_emulator: KMSEmulator,
    spoil: Spoil,
    reason: str,
) -> None:
    """The reason is the error code for the state of the key."""
    _require_refused(kms_store, kms, spoil(kms_emulator), reason)


def _p256() -> bytes:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


FAULTS: dict[str, tuple[str, Fault, str]] = {
    "hangs when found": ("GetPublicKey", faults.hang(), "backend-unavailable"),
    "hangs when it signs": ("Sign", faults.hang(), "backend-unavailable"),
    "trickles": ("Sign", faults.trickle(0.5), "backend-unavailable"),
    "signs with another key": ("Sign", faults.other_key(), "signature-recovery"),
    "hashes again": ("Sign", faults.double_hash(), "signature-recovery"),
    "no DER": ("Sign", faults.signature(b"\x30\x00"), "signature-encoding"),
    "disabled meanwhile": ("Sign", faults.disabled(), "key-unusable"),
    "denied": ("Sign", faults.access_denied(), "backend-access-denied"),
    "another curve": ("GetPublicKey", faults.public_key(_p256()), "signature-encoding"),
}


@pytest.mark.parametrize(("operation", "fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_failing_kms_leaves_the_old_key_active(
    *,
    kms_store: SQLStore,
    kms: KMSBackend,
    kms_emulator: KMSEmulator,
    kms_faults: Faults,
    hang: Hang,
    operation: str,
    fault: Fault,
    reason: str,
) -> None:
    """After every KMS failure the old key is active, within five seconds."""

    def fault_that_expires(exchange: Exchange) -> Reply | None:
        if reason == "backend-unavailable":
            hang.expired.set()
        return fault(exchange)

    kms_faults.always(operation, fault_that_expires)
    _require_refused(kms_store, kms, kms_emulator.create_key(), reason)
    assert sum(hang.waits) < 5


def test_throttled_kms_is_reported(
    kms_store: SQLStore,
    hasty_kms: KMSBackend,
    kms_emulator: KMSEmulator,
    kms_faults: Faults,
) -> None:
    """A used-up quota is reported as such if there is no time to retry."""
    kms_faults.always("Sign", faults.throttle())
    arn = kms_emulator.create_key()
    _require_refused(kms_store, hasty_kms, arn, "backend-throttled")


def test_alias_is_stored_as_its_arn(
    kms_store: SQLStore, kms: KMSBackend, kms_emulator: KMSEmulator
) -> None:
    """O7: the alias is resolved during the rotation; the ring has the ARN."""
    arn, alias = kms_emulator.create_key(), f"alias/{secrets.token_hex(6)}"
    kms_emulator.create_alias(alias, arn)
    rotated = _rotation(kms_store, kms).rotate(alias, ALICE)

    assert (rotated.status, rotated.key.key_id) == ("rotated", arn)
    assert rotated.key.address == kms_emulator.address(arn)
    assert kms_store.active_key() == rotated.key


def test_rotation_succeeds_once_kms_grants_permission(
    kms_store: SQLStore, kms: KMSBackend, kms_emulator: KMSEmulator, kms_faults: Faults
) -> None:
    """K17: a policy that has not propagated is refused; a later call succeeds."""
    arn, old = kms_emulator.create_key(), kms_store.active_key()
    kms_faults.on("GetPublicKey", faults.not_found())
    kms_faults.on("Sign", faults.access_denied(), times=2)
    reasons = []
    for _ in range(3):
        with pytest.raises(NewKeyUnhealthyError) as raised:
            _rotation(kms_store, kms).rotate(arn, ALICE)
        reasons.append(raised.value.reason)
        assert kms_store.active_key() == old
    rotated = _rotation(kms_store, kms).rotate(arn, ALICE)

    assert reasons == ["key-not-found", *["backend-access-denied"] * 2]
    assert (rotated.status, rotated.key.epoch) == ("rotated", 2)


def test_cka_id_is_stored_in_lower_case(
    sqlite_store: SQLStore, softhsm: PKCS11Backend, softhsm_key: KeyId
) -> None:
    """A CKA_ID is accepted in any case; text that is not hex is refused."""
    old = _enrolled(sqlite_store, softhsm, softhsm_key)
    new = softhsm.generate(secrets.token_hex(8))
    rotation = _rotation(sqlite_store, softhsm)
    rotated = rotation.rotate(new.upper(), ALICE)

    assert (rotated.key.key_id, rotated.previous) == (new, old)
    with pytest.raises(InvalidInputError, match="CKA_ID"):
        rotation.rotate("not hex", ALICE)
    _require_refused(sqlite_store, softhsm, secrets.token_hex(16), "key-not-found")


def test_rotates_to_another_version_in_google_cloud(
    sqlite_store: SQLStore,
    google_cloud_kms: GoogleCloudKMSBackend,
    google_kms_emulator: GoogleKMSEmulator,
    google_cloud_kms_key: KeyId,
) -> None:
    """The next version of the same key is another key, with another address."""
    old = _enrolled(sqlite_store, google_cloud_kms, google_cloud_kms_key)
    new = google_kms_emulator.create_version()
    rotated = _rotation(sqlite_store, google_cloud_kms).rotate(new, ALICE)

    assert (rotated.status, rotated.key.key_id) == ("rotated", new)
    assert rotated.key.address == google_kms_emulator.address(new) != old.address
    assert sqlite_store.active_key() == rotated.key


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (None, "key-not-found"),
        ("DISABLED", "key-unusable"),
        ("DESTROY_SCHEDULED", "key-unusable"),
    ],
)
def test_unusable_version_in_google_cloud_is_refused(
    *,
    sqlite_store: SQLStore,
    google_cloud_kms: GoogleCloudKMSBackend,
    google_kms_emulator: GoogleKMSEmulator,
    google_cloud_kms_key: KeyId,
    state: str | None,
    reason: str,
) -> None:
    _enrolled(sqlite_store, google_cloud_kms, google_cloud_kms_key)
    new = google_kms_emulator.create_version()
    if state is None:
        new = f"{new.rpartition('/')[0]}/999999"
    else:
        google_kms_emulator.set_state(new, state)

    _require_refused(sqlite_store, google_cloud_kms, new, reason)
