"""The administrative routes: rotate a key, fail a key over, and list the keys."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import falcon
from falcon import Request, Response

from api.http import query
from api.http.body import read_object
from api.http.middleware import Resource
from api.request_context import actor
from api.views.keys import (
    failover_document,
    key_document,
    reinstatement_document,
    rotation_document,
)
from signer.approvals import require_reason
from signer.errors import InvalidInputError
from signer.keys.failover import Failover
from signer.keys.reinstatement import Reinstatement
from signer.keys.rotation import Rotation
from signer.keys.rotation_options import AWAITING_FUNDS, RotationOptions
from signer.ports.key_store import KeyStore


_FAILOVER_FIELDS = {"newKeyId": str, "dryRun": bool}
_ROTATION_FIELDS = {
    **_FAILOVER_FIELDS,
    "compromised": bool,
    "activeAddress": str,
    "withoutFunds": bool,
    "reason": str,
}

# What this API calls the fields of the core's ``InvalidInputError``.
_FIELD_NAMES = {
    "key_id": "newKeyId",
    "active_address": "activeAddress",
    "without_funds": "withoutFunds",
}

_JSON_NAMES = {str: "string", bool: "boolean"}

_MAX_KEY_ID_LENGTH = 512


class AdministrativeResource(Resource):
    """A route for administrators; subclasses may require another scope."""

    required_role = frozenset({"admin", "devops"})
    required_scope = "keys:rotate"
    is_administrative = True


class KeyRotation(AdministrativeResource):
    """``/v1/admin/kms/rotate``: makes another key the active key."""

    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation

    def on_post(self, req: Request, resp: Response) -> None:
        """Rotate (200), or answer that the new address must be funded first (202)."""
        body = _read_body(req, _ROTATION_FIELDS)
        options = RotationOptions(
            dry_run=body.get("dryRun", False),
            compromised=body.get("compromised", False),
            active_address=body.get("activeAddress"),
            without_funds=body.get("withoutFunds", False),
        )
        reason = body.get("reason", "")
        if reason:
            require_reason(reason)  # Also if no approval is needed.
        with _translate_fields():
            by = actor(req, reason)
            result = self._rotation.rotate(body["newKeyId"], by, options)

        if result.status == AWAITING_FUNDS:
            resp.status = falcon.HTTP_ACCEPTED
        resp.media = rotation_document(result)


class KeyFailover(AdministrativeResource):
    """``/v1/admin/kms/failover``: pins a key to its replica in another region."""

    def __init__(self, failover: Failover) -> None:
        self._failover = failover

    def on_post(self, req: Request, resp: Response) -> None:
        """Pin the key to the replica that ``newKeyId`` names."""
        body = _read_body(req, _FAILOVER_FIELDS)
        with _translate_fields():
            result = self._failover.fail_over(
                body["newKeyId"], actor(req), dry_run=body.get("dryRun", False)
            )

        resp.media = failover_document(result)


class KeyReinstatement(AdministrativeResource):
    """``/v1/admin/keys/{address}/reinstate``: undoes a revocation by mistake."""

    def __init__(self, reinstatement: Reinstatement) -> None:
        self._reinstatement = reinstatement

    def on_post(self, req: Request, resp: Response, address: str) -> None:
        """Reinstate the key, for the reason in the body; repeating it is safe."""
        query.parameters(req)
        body = read_object(req)
        if set(body) != {"reason"} or not isinstance(body["reason"], str):
            raise InvalidInputError("must have reason, a string", field="body")
        key, refunds = self._reinstatement.reinstate(
            address, body["reason"], actor(req)
        )

        resp.media = reinstatement_document(key, refunds)


class Keys(AdministrativeResource):
    """``/v1/admin/keys``: lists the keys that sign or have signed."""

    required_scope = "keys:read"

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    def on_get(self, req: Request, resp: Response) -> None:
        """List the keys, the active key first."""
        query.parameters(req)
        ring = self._store.keys()

        resp.media = {"keys": [key_document(key) for key in ring]}


def _read_body(req: Request, known: Mapping[str, type]) -> dict[str, Any]:
    query.parameters(req)
    body = read_object(req)
    for name, value in body.items():
        kind = known.get(name)
        if kind is None:
            # Do not repeat the name: a misplaced key id may be in it.
            raise InvalidInputError(
                f"has an unknown field; this request takes {', '.join(known)}",
                field="body",
            )
        if type(value) is not kind:
            raise InvalidInputError(f"must be a {_JSON_NAMES[kind]}", field=name)
    if not 0 < len(body.get("newKeyId", "")) <= _MAX_KEY_ID_LENGTH:
        raise InvalidInputError("must name the new key", field="newKeyId")
    return body


@contextmanager
def _translate_fields() -> Iterator[None]:
    """Report an invalid field by its name in the request."""
    try:
        yield
    except InvalidInputError as e:
        field = e.field and _FIELD_NAMES.get(e.field, e.field)
        raise InvalidInputError(str(e), field=field) from None
