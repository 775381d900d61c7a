"""
The doctor's checks of the active key.

The active key is the one in the key ring.  The configuration names the first key, and
may be older than a rotation or a failover: the key that it names need not work then.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from eth_utils.address import is_same_address

from api.container import Container
from signer.config.networks import Network
from signer.config.settings import AWS_KMS, PKCS11, Settings
from signer.crypto.der import parse_public_key
from signer.deadline import Deadlines
from signer.diagnostics import EXPLAIN, Check, Finding
from signer.errors import (
    BackendUnavailableError,
    ConfigurationError,
    HotWalletError,
    SigningError,
)
from signer.keys import startup_key
from signer.keys.signer import Signer
from signer.model.audit_record import Record
from signer.model.key import Key
from signer.ports.key_backend import KeyId
from signer.redact import key_prefix


@dataclass
class DoctorContext:
    """
    What is known so far: each check stores what the checks that need it read.

    Reading a field that no check has set raises ``AttributeError``, which means that
    the reader lacks a name in its ``needs``.  ``active`` is the key ring's active key,
    None while the ring is empty or was not read.  ``address`` is that key's, or the
    configured key's while the ring is empty.
    """

    container: Container
    networks: Mapping[str, Network] = field(default_factory=dict)
    is_ring_read: bool = False
    active: Key | None = None
    address: str | None = None
    settings: Settings = field(init=False)
    written: Record = field(init=False)
    signer: Signer = field(init=False)

    def check(
        self, name: str, run: Callable[[Self], Finding], cure: str, *needs: str
    ) -> Check:
        return Check(name, partial(run, self), cure, needs)


_LOOKUP_SECONDS = 10.0
"""Shorter than a check's deadline, so that a region that hangs gives a warning."""

_ID_NAMES = {AWS_KMS: "ARN", PKCS11: "CKA_ID"}


def key_checks(context: DoctorContext) -> Iterator[Check]:
    """Yield the checks of the key; iterate after the "database" check has run."""
    yield context.check("device", _check_device, _device_cure(context), "settings")
    cure = "run: hotwallet keys list, or: hotwallet explain-code CODE"
    yield context.check("key", _check_key, cure, "database", "device")
    yield context.check("signature", _check_signature, EXPLAIN, "key")
    active = context.active
    if active is not None:
        cure = f"{_configuration_cure(context, active)}; {EXPLAIN}"
        run = partial(_check_configuration, active=active)
        yield context.check("configured", run, cure, "device")


def _device_cure(context: DoctorContext) -> str:
    settings = getattr(context, "settings", None)
    if settings is None or settings.backend_name == PKCS11:
        return "run: hotwallet softhsm doctor"
    if context.active is None and settings.backend_name == AWS_KMS:
        return "check credentials, AWS_REGION and KMS_KEY_ID"
    if context.active is None:
        return f"check credentials and {_setting(context)}"
    return f"check credentials; {EXPLAIN}"


def _check_device(context: DoctorContext) -> Finding:
    active = context.active
    if active is not None:
        startup_key.require_backend(active, context.container.backend)
        return _read_public_key(context, KeyId(active.key_id))[1]
    # The ring is empty, or cannot be read.
    try:
        key_id = context.container.backend.resolve(context.container.key_name)
        context.address, finding = _read_public_key(context, key_id)
    except SigningError as e:
        if context.is_ring_read:
            raise
        return Finding(
            f"the configured key does not answer ({e.code}); the database cannot be"
            " read, so it is unknown whether this is the active key",
            "repair the database first",
        )
    return finding


def _read_public_key(context: DoctorContext, key_id: KeyId) -> tuple[str, Finding]:
    backend = context.container.backend
    address = parse_public_key(backend.public_key(key_id)).address
    detail = f"{backend.name}: {key_prefix(key_id)} has the address {address}"
    return address, Finding(detail)


def _check_key(context: DoctorContext) -> Finding:
    container, active = context.container, context.active
    if active is not None:
        context.signer = container.signers.open(active)
        return Finding(
            f"epoch {active.epoch}: {active.backend} {key_prefix(active.key_id)},"
            f" {active.address}"
        )
    context.signer = Signer.open(
        container.backend,
        container.backend.resolve(container.key_name),
        container.audit,
        expected_address=context.settings.wallet_address,
    )
    return Finding(
        "the key ring is empty, so the configured key is checked",
        "run: hotwallet guard; it adds the configured key to the ring",
    )


def _check_signature(context: DoctorContext) -> Finding:
    began = time.monotonic()
    context.signer.self_test(while_active=context.active is not None)
    milliseconds = (time.monotonic() - began) * 1000
    return Finding(f"recovers to {context.signer.address}, in {milliseconds:.0f} ms")


def _check_configuration(context: DoctorContext, active: Key) -> Finding:
    """Compare the configuration with the ring, as a process does when it starts."""
    container = context.container
    setting, name = _setting(context), container.key_name
    ring = container.store.keys()
    startup_key.require_address(ring, context.settings.wallet_address or active.address)
    try:
        found = Deadlines().within(
            _LOOKUP_SECONDS,
            lambda: startup_key.resolve_in_ring(name, ring, container.backend),
            name="configured",
            late=BackendUnavailableError,
        )
    except HotWalletError as e:
        return Finding(
            f"no process can start: the key that {setting} names does not answer"
            f" ({e.code}), and the ring has no key with that name",
            _configuration_cure(context, active),
        )
    if found is None:
        raise ConfigurationError(startup_key.not_in_ring("the configured key"))
    if found.address != active.address:
        return Finding(
            f"{setting} names {key_prefix(found.key_id)}, which is {found.state}",
            _configuration_cure(context, active),
        )
    if name.startswith("arn:") and name != active.key_id:
        return Finding(
            f"{setting} names the active key's replica from before a failover",
            f"{_configuration_cure(context, active)}, and AWS_REGION to that ARN's"
            " region",
        )
    return Finding(f"{setting} names the active key")


def _setting(context: DoctorContext) -> str:
    return context.container.backend_plugin.key_setting


def _configuration_cure(context: DoctorContext, active: Key) -> str:
    kind = _ID_NAMES.get(context.settings.backend_name, "id")
    key_id = key_prefix(active.key_id)
    cure = f"set {_setting(context)} to the active key's {kind}, {key_id}"
    expected = context.settings.wallet_address
    if expected is None or is_same_address(expected, active.address):
        return cure
    return f"{cure}, and WALLET_ADDRESS to {active.address}"
