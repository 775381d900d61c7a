"""The administrative routes: rotate a key, fail a key over, and list the keys."""

from collections.abc import Mapping
from typing import Any

import falcon

from api.http import query
from api.http.body import read_object
from api.http.middleware import Resource
from api.request_context import principal, request_id
from api.views.refunds import timestamp
from signer.errors import InvalidInputError
from signer.keys.balances import AddressBalance
from signer.keys.changeover import AWAITING_FUNDS, RotationOptions, RotationResult
from signer.keys.failover import Failover, FailoverResult
from signer.keys.rotation import Rotation
from signer.model.audit_record import Actor
from signer.model.key import Key
from signer.ports import KeyStore
from signer.redact import key_prefix


_ROLES = frozenset({"admin", "devops"})

_FAILOVER_FIELDS = {"newKeyId": str, "dryRun": bool}

_ROTATION_FIELDS = {**_FAILOVER_FIELDS, "compromised": bool, "activeAddress": str}

_LONGEST_KEY_ID = 512


class KeyRotation(Resource):
    """``/v1/admin/kms/rotate``: makes another key the active one."""

    required_role = _ROLES
    required_scope = "keys:rotate"
    is_administrative = True

    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Rotate (200), or wait for the new address to be funded (202)."""
        query.parameters(req)
        asked = _read(read_object(req), _ROTATION_FIELDS)
        rotated = self._rotation.rotate(
            asked["newKeyId"],
            _actor(req),
            RotationOptions(
                rehearse=asked.get("dryRun", False),
                compromised=asked.get("compromised", False),
                active_address=asked.get("activeAddress"),
            ),
        )

        if rotated.status == AWAITING_FUNDS:
            resp.status = falcon.HTTP_ACCEPTED
        resp.media = rotation_document(rotated)


class KeyFailover(Resource):
    """``/v1/admin/kms/failover``: pins a key to its replica in another region."""

    required_role = _ROLES
    required_scope = "keys:rotate"
    is_administrative = True

    def __init__(self, failover: Failover) -> None:
        self._failover = failover

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Pin the key to the replica that ``newKeyId`` names."""
        query.parameters(req)
        asked = _read(read_object(req), _FAILOVER_FIELDS)
        result = self._failover.relocate(
            asked["newKeyId"], _actor(req), rehearse=asked.get("dryRun", False)
        )

        resp.media = failover_document(result)


class Keys(Resource):
    """``/v1/admin/keys``: the keys that sign or have signed."""

    required_role = _ROLES
    required_scope = "keys:read"
    is_administrative = True

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the ring, the active key first."""
        query.parameters(req)
        ring = self._store.keys()

        resp.media = {"keys": [key_document(key) for key in ring]}


def rotation_document(rotated: RotationResult) -> dict[str, Any]:
    """Return what became of a rotation, as administrators see it."""
    previous = rotated.previous
    return {
        "status": rotated.status,
        "keyId": key_prefix(rotated.key.key_id),
        "address": rotated.key.address,
        "epoch": rotated.key.epoch,
        "previousKeyId": None if previous is None else key_prefix(previous.key_id),
        "previousAddress": None if previous is None else previous.address,
        "holdings": [_holding_document(each) for each in rotated.holdings],
        "strandedRefunds": list(rotated.stranded),
        "warnings": list(rotated.warnings),
    }


def failover_document(result: FailoverResult) -> dict[str, Any]:
    """Return *result* as JSON; key ids are cut to a prefix."""
    return {
        "status": result.status,
        "keyId": key_prefix(result.key.key_id),
        "previousKeyId": key_prefix(result.previous.key_id),
        "address": result.key.address,
        "state": str(result.key.state),
        "warnings": list(result.warnings),
    }


def key_document(key: Key) -> dict[str, Any]:
    """Return one key of the ring; of its id no more than a prefix."""
    return {
        "keyId": key_prefix(key.key_id),
        "backend": key.backend,
        "address": key.address,
        "state": str(key.state),
        "epoch": key.epoch,
        "requestedBy": key.requested_by,
        "blockedBy": key.blocked_by,
        "createdAt": timestamp(key.created_at),
        "updatedAt": timestamp(key.updated_at),
    }


def _holding_document(holding: AddressBalance) -> dict[str, Any]:
    return {
        "network": holding.network,
        "gas": holding.gas,
        "tokens": dict(holding.tokens),
        "nonce": holding.nonce,
        "error": holding.error,
    }


def _actor(req: falcon.Request) -> Actor:
    caller = principal(req)
    return Actor(caller.sub, request_id(req), caller.jti)


def _read(payload: dict[str, Any], fields: Mapping[str, type]) -> dict[str, Any]:
    for name, value in payload.items():
        kind = fields.get(name)
        if kind is None:
            # The name is the caller's, and may be a key id that went astray.
            raise InvalidInputError(
                f"has an unknown field; this request takes {', '.join(fields)}",
                field="body",
            )
        if type(value) is not kind:
            raise InvalidInputError(f"must be a {_JSON_NAMES[kind]}", field=name)
    if not 0 < len(payload.get("newKeyId", "")) <= _LONGEST_KEY_ID:
        raise InvalidInputError("must name the new key", field="newKeyId")
    return payload


_JSON_NAMES = {str: "string", bool: "boolean"}
