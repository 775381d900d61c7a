"""Key rings over keys that tests hold in memory."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from signer.keys.keyring import KeyRing
from signer.keys.signer import Signer
from signer.model.audit_record import Record
from signer.model.key import SERVING, Key, KeyState, SigningCondition
from signer.ports.key_store import KeyStore


_LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def key_of(signer: Signer, state: KeyState = KeyState.ACTIVE) -> Key:
    """Return a new row for the key of *signer*."""
    return key_at(signer.address, key_id=signer.key_id, state=state)


def key_at(
    address: str, *, key_id: str | None = None, state: KeyState = KeyState.ACTIVE
) -> Key:
    """Return the row of a key with *address*, which is also its default id."""
    return Key(
        "device", key_id or address.lower(), address, state, _LONG_AGO, _LONG_AGO
    )


def signing_condition(
    key: Key, states: frozenset[KeyState] = SERVING
) -> SigningCondition:
    return SigningCondition(key.address, key.key_id, states)


def made_active(store: KeyStore, key: Key, *, block: bool = False) -> Key:
    """
    Make *key* the active key of *store*, by a rotation if necessary, and return it.

    With *block*, the replaced key is blocked.
    """
    active = store.enrol(key)
    if active.address == key.address:
        return active
    at = datetime.now(UTC)
    record = Record.of({"event": "key-rotate-succeeded"}, at)
    pending = store.begin_rotation(key, at)
    return store.activate(pending, at, record, replacing=active, block=block)


def activate(store: KeyStore, pending: Key, at: datetime, record: Record) -> Key:
    """Activate *pending* in place of the active key, and return it."""
    return store.activate(pending, at, record, replacing=store.active_key())


def ring_over(
    store: KeyStore, *signers: Signer, timer: Callable[[], float] = time.monotonic
) -> KeyRing:
    """Return a ring of *signers*; the first one is enrolled in an empty store."""
    if store.active_key() is None:
        store.enrol(key_of(signers[0]))
    by_address = {signer.address: signer for signer in signers}
    return KeyRing(store, lambda key: by_address[key.address], timer)
