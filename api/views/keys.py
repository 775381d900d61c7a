"""The keys, and the results of changing them, as JSON; key ids are cut to a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from signer.redact import key_prefix


if TYPE_CHECKING:
    from signer.keys.failover import FailoverResult
    from signer.keys.rotation_options import RotationResult
    from signer.model.key import Key


def rotation_document(result: RotationResult) -> dict[str, Any]:
    """Return *result* as JSON."""
    from api.views.document import fields

    previous = result.previous
    return {
        "status": result.status,
        "keyId": key_prefix(result.key.key_id),
        "address": result.key.address,
        "epoch": result.key.epoch,
        "previousKeyId": None if previous is None else key_prefix(previous.key_id),
        "previousAddress": None if previous is None else previous.address,
        "holdings": [
            fields(balance, "network", "gas", "tokens", "nonce", "error")
            for balance in result.holdings
        ],
        "strandedRefunds": list(result.stranded),
        "warnings": list(result.warnings),
    }


def failover_document(result: FailoverResult) -> dict[str, Any]:
    """Return *result* as JSON."""
    return {
        "status": result.status,
        "keyId": key_prefix(result.key.key_id),
        "previousKeyId": key_prefix(result.previous.key_id),
        "address": result.key.address,
        "state": str(result.key.state),
        "warnings": list(result.warnings),
    }


def reinstatement_document(key: Key, refunds: Sequence[str]) -> dict[str, Any]:
    """Return *key* as JSON, with the ids of the open *refunds* that it signed."""
    return {**key_document(key), "openRefunds": list(refunds)}


def key_document(key: Key) -> dict[str, Any]:
    """Return *key* as JSON."""
    from api.views.document import fields, timestamp

    until = key.reinstatable_until
    return {
        "keyId": key_prefix(key.key_id),
        **fields(key, "backend", "address", "state", "epoch"),
        "requestedBy": key.requested_by,
        "blockedBy": key.blocked_by,
        "createdAt": timestamp(key.created_at),
        "updatedAt": timestamp(key.updated_at),
        "reinstatableUntil": None if until is None else timestamp(until),
    }
