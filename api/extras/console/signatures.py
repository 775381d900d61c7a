"""
The signatures of every path, from the audit log, the newest first.

A record of a signature has what was signed in words, or what these words are made of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.extras.console.audit import FoundRecord, RecordFilter, plain_texts
from signer.audit.actions import SUCCESS, AuditAction
from signer.config.networks import Network
from signer.model.audit_record import Operation
from signer.model.transaction import Kind
from signer.policy.facts import Path


TEST = str(Operation.SELF_TEST)
"""What takes the place of the path of a signature that only tests a key."""

PATHS = (*map(str, Path), TEST)

_MARK = f'"{AuditAction.DIGEST_SIGN}-'
_REQUESTED = AuditAction.DIGEST_SIGN.requested

_OF_WORKERS: Mapping[str, str] = {
    Operation.KEY_SWEEP: Path.SWEEP,
    Operation.NONCE_FILL: Path.NOOP,
    Operation.SELF_TEST: TEST,
    Operation.TRANSACTION_SIGNING: Path.REFUND,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureFilter(RecordFilter):
    """What a signature must have; without a path, all of them but self-tests."""

    path: str | None = None
    network: str | None = None
    rule: str | None = None

    @property
    def texts(self) -> Sequence[str]:
        """What the body of each wanted record contains."""
        return [_MARK, *plain_texts(self.actor, self.network, self.rule)]

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a record with *fields* is wanted, apart from its time."""
        event = str(fields.get("event"))
        path, details = _path(fields), _details(fields)
        return (
            event.startswith(_MARK[1:])
            and event != _REQUESTED
            and (path != TEST if self.path is None else path == self.path)
            and (self.actor or "") in str(fields.get("actor"))
            and self.network in {None, fields.get("network")}
            and self.rule in {None, details.get("rule")}
        )


def show_signature(
    found: FoundRecord, networks: Mapping[str, Network]
) -> Mapping[str, Any]:
    """
    Return the signature that the record *found*, with a valid MAC, is about.

    ``problem`` is the code of the error after which there is none.  ``policy`` is the
    start of the policy's hash, and ``chain_id`` that of ``tx_hash``, if *networks* have
    its network.
    """
    fields = found.fields or {}
    details, outcome = _details(fields), str(fields.get("outcome"))
    network = networks.get(str(fields.get("network")))
    return {
        "sequence": found.sequence,
        "at": found.at,
        "actor": _text(fields, "actor") or "-",
        "path": _path(fields),
        "network": _text(fields, "network"),
        "summary": _describe(fields, details),
        "address": _text(fields, "address") or "-",
        **{
            name: _text(details, name)
            for name in ("tenant", "rule", "policy", "tx_hash")
        },
        "chain_id": None if network is None else network.chain_id,
        "refund_id": found.refund_id,
        "problem": None if outcome == SUCCESS else outcome,
    }


def _describe(fields: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """Return what was signed, in words."""
    summary = _text(details, "summary")
    if summary is not None:
        return summary
    path = _path(fields)
    if path == TEST:
        return "test the key with random bytes"
    if path == Path.NOOP:
        return f"use up nonce {details.get('nonce', '-')}, and pay nothing"
    amount, token = str(details.get("amount", "-")), details.get("token_symbol", "-")
    whole, point, fraction = amount.partition(".")
    if point:  # With two decimals, or as many as it needs.
        amount = f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"
    recipient, data = details.get("recipient", "-"), _text(details, "calldata")
    if data is not None:
        return f"call {recipient} with {data} and {amount} {token}"
    return f"transfer {amount} {token} to {recipient}"


def _path(fields: Mapping[str, Any]) -> str:
    """Return the path to the signature; records of workers do not name it."""
    details = _details(fields)
    if details.get("kind") == str(Kind.NOOP):
        return Path.NOOP
    if "calldata" in details:
        return Path.CALL
    known = _OF_WORKERS.get(str(fields.get("operation")), "-")
    return _text(details, "path") or str(known)


def _details(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    details = fields.get("details")
    return details if isinstance(details, dict) else {}


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    found = fields.get(name)
    return found if isinstance(found, str) else None
