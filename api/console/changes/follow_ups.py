"""The change that an approved proposal allows, with the fields of its form."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from api.console.changes.change import Change, Values
from api.console.changes.revocation import REINSTATE, REVOKE
from api.console.changes.rotation import COMPROMISED, ROTATE, WITHOUT_FUNDS
from api.console.changes.stops import RESUME, scope_of
from api.console.changes.tenants import UNBLOCK
from api.console.changes.wallets import ABANDON, REPAIR
from signer.audit.actions import AuditAction
from signer.model.approval import Approval


Facts = Mapping[str, Any]
Names = Mapping[int, str]


def find_follow_up(approval: Approval, names: Names) -> tuple[Change, Values] | None:
    """
    Return the change to repeat once *approval* is given, and fields of its form.

    None if the console does not offer it.  *names* are those of the networks, by chain
    id.
    """
    with suppress(LookupError, TypeError, ValueError):
        facts: Facts = json.loads(approval.proposal)
        change, values_of = _FOLLOW_UPS[approval.action]
        return change, values_of(facts, names)
    return None


def _resumed(facts: Facts, names: Names) -> Values:
    return {"network": scope_of(int(facts["chain_id"]), names)}


def _tenant(facts: Facts, _: Names) -> Values:
    return {"tenant": facts["tenant"]}


def _network(facts: Facts, _: Names) -> Values:
    return {"network": facts["network"]}


def _wallet(facts: Facts, _: Names) -> Values:
    return {"network": facts["network"], "address": facts["address"]}


def _key(facts: Facts, _: Names) -> Values:
    return {"address": facts["key_address"]}


def _rotation(facts: Facts, _: Names) -> Values:
    # The proposal has only the first characters of the new key's id.
    kind = WITHOUT_FUNDS if facts["without_funds"] else COMPROMISED
    return {"kind": kind, "active_address": facts["compromised_key_address"]}


_FOLLOW_UPS: Mapping[str, tuple[Change, Callable[[Facts, Names], Values]]] = {
    AuditAction.SIGNING_RESUME: (RESUME, _resumed),
    AuditAction.TENANT_UNBLOCK: (UNBLOCK, _tenant),
    AuditAction.FOREIGN_TRANSACTION_ACCEPT: (REPAIR, _network),
    AuditAction.NONCE_ABANDON: (ABANDON, _wallet),
    AuditAction.KEY_ROTATE: (ROTATE, _rotation),
    AuditAction.KEY_REVOKE: (REVOKE, _key),
    AuditAction.KEY_REINSTATE: (REINSTATE, _key),
}
