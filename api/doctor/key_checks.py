"""
What ``hotwallet doctor`` looks at of the key: the one that serves.

That is the ring's active one, wherever it is.  The configuration names the first key,
and may be behind a rotation or a relocation: what it names need not even answer then.
"""

import time
from collections.abc import Iterator

from eth_utils.address import is_same_address

from api.doctor.checks import Check, Finding
from api.doctor.context import DoctorContext
from signer.crypto.der import parse_public_key
from signer.deadline import Deadlines
from signer.errors import (
    BackendUnavailableError,
    ConfigurationError,
    HotWalletError,
    SigningError,
)
from signer.keys.signer import Signer, SignerFactory
from signer.keys.startup_key import (
    not_in_ring,
    require_address,
    require_backend,
    resolve_in_ring,
)
from signer.model.key import Key
from signer.ports import KeyId
from signer.redact import key_prefix


_LOOKUP_SECONDS = 10.0
"""Less than a rung has, so that a region which hangs is a warning here, too."""

_HSM_DOWN = "docs/operations/hsm-down.md has a row for each code"


def key_steps(patient: DoctorContext) -> Iterator[Check]:
    """Yield the steps of the key; ask for them once "database" was climbed."""
    yield Check(
        "device", lambda: _device(patient), _device_cure(patient), ("settings",)
    )
    yield Check(
        "key",
        lambda: _key(patient),
        "hotwallet keys list; docs/operations/hsm-down.md",
        ("database", "device"),
    )
    yield Check("signature", lambda: _signature(patient), _HSM_DOWN, ("key",))
    active = patient.active
    if active is not None:
        yield Check(
            "configured",
            lambda: _configured(patient, active),
            f"{_advice(patient, active)}; docs/guard.md",
            ("device",),
        )


def _device_cure(patient: DoctorContext) -> str:
    settings = getattr(patient, "settings", None)
    if settings is None or not settings.use_kms:
        return "hotwallet softhsm doctor"
    if patient.active is None:
        return "check credentials, AWS_REGION and KMS_KEY_ID; docs/kms.md"
    return f"check credentials; {_HSM_DOWN}"


def _device(patient: DoctorContext) -> Finding:
    patient.backend = patient.openers.backend(patient.settings)
    active = patient.active
    if active is None:
        return _configured_alone(patient)
    require_backend(active, patient.backend)
    return _answering(patient, KeyId(active.key_id))[1]


def _configured_alone(patient: DoctorContext) -> Finding:
    """Look at the configured key, where nobody has told of another one."""
    try:
        key_id = patient.backend.resolve(patient.key_name)
        patient.address, found = _answering(patient, key_id)
    except SigningError as e:
        if patient.is_ring_read:
            raise
        return Finding(
            f"the configured key does not answer ({e.code}), and whether it is the"
            " active one the database does not tell",
            "mend the database first; docs/operations/database-down.md",
        )
    return found


def _answering(patient: DoctorContext, key_id: KeyId) -> tuple[str, Finding]:
    address = parse_public_key(patient.backend.public_key(key_id)).address
    said = f"{patient.backend.name}: {key_prefix(key_id)} is {address}"
    return address, Finding(said)


def _key(patient: DoctorContext) -> Finding:
    active = patient.active
    if active is None:
        return _unenrolled(patient)
    patient.signer = SignerFactory(patient.backend, patient.audit).open(active)
    return Finding(
        f"epoch {active.epoch}: {active.backend} {key_prefix(active.key_id)},"
        f" {active.address}"
    )


def _unenrolled(patient: DoctorContext) -> Finding:
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


def _signature(patient: DoctorContext) -> Finding:
    began = time.monotonic()
    patient.signer.self_test(while_active=patient.active is not None)
    milliseconds = (time.monotonic() - began) * 1000
    return Finding(f"recovers to {patient.signer.address}, in {milliseconds:.0f} ms")


def _configured(patient: DoctorContext, active: Key) -> Finding:
    """Compare the configuration with the ring, as a process does when it starts."""
    setting, name = _setting(patient), patient.key_name
    ring = patient.store.keys()
    require_address(ring, patient.settings.wallet_address or active.address)
    try:
        found = Deadlines().within(
            _LOOKUP_SECONDS,
            lambda: resolve_in_ring(name, ring, patient.backend),
            name="configured",
            late=BackendUnavailableError,
        )
    except HotWalletError as e:
        return Finding(
            f"no process would start: what {setting} names does not answer ({e.code}),"
            " and the ring has no key by that name",
            _advice(patient, active),
        )
    if found is None:
        raise ConfigurationError(not_in_ring("the configured key"))
    if found.address != active.address:
        return Finding(
            f"{setting} names {key_prefix(found.key_id)}, which is {found.state}",
            f"{_advice(patient, active)}; docs/operations/rotation.md",
        )
    if name.startswith("arn:") and name != active.key_id:
        return Finding(
            f"{setting} names the place that the active key was relocated from",
            f"{_advice(patient, active)}, and AWS_REGION to that ARN's region;"
            " docs/operations/deploy.md",
        )
    return Finding(f"{setting} names the active key")


def _setting(patient: DoctorContext) -> str:
    return "KMS_KEY_ID" if patient.settings.use_kms else "PKCS11_KEY_ID"


def _advice(patient: DoctorContext, active: Key) -> str:
    kind = "ARN" if patient.settings.use_kms else "CKA_ID"
    shown = key_prefix(active.key_id)
    told = f"set {_setting(patient)} to the active key's {kind}, {shown}"
    expected = patient.settings.wallet_address
    if expected is None or is_same_address(expected, active.address):
        return told
    return f"{told}, and WALLET_ADDRESS to {active.address}"
