"""
The signatures of every path, from the audit log, the newest first.

A record of a signature has what was signed in words, or what these words are made of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from api.extras.console.audit import (
    FoundRecord,
    FoundRecords,
    plain_texts,
    search_records,
)
from signer.audit.actions import SUCCESS, AuditAction
from signer.config.networks import Network
from signer.model.audit_record import Operation
from signer.model.refund import Kind
from signer.policy.facts import Path
from signer.ports.audit_journal import Journal
from signer.row_macs import RowMACs


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


@dataclass(frozen=True, slots=True)
class SignatureFilter:
    """
    What a signature must have; None allows everything, but no self-tests.

    ``actor`` may be a part of the name.  ``until`` does not belong to the time.
    """

    actor: str | None = None
    path: str | None = None
    network: str | None = None
    rule: str | None = None
    since: datetime | None = None
    until: datetime | None = None

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


@dataclass(frozen=True, slots=True)
class ShownSignature:
    """
    One signature, or ``problem``: the code of the error after which there is none.

    ``policy`` is the start of the policy's hash, and ``chain_id`` that of ``tx_hash``,
    if the networks file has its network.
    """

    sequence: int
    at: datetime | None
    actor: str
    path: str
    tenant: str | None
    network: str | None
    summary: str
    address: str
    rule: str | None
    policy: str | None
    tx_hash: str | None
    chain_id: int | None
    refund_id: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class FoundSignatures:
    """
    A page of signatures; ``before`` and ``until`` are those of ``FoundRecords``.

    ``forged`` are the sequence numbers of records that another program wrote.
    """

    signatures: Sequence[ShownSignature]
    forged: Sequence[int]
    before: int | None
    until: datetime | None


def search_signatures(
    journal: Journal,
    macs: RowMACs,
    networks: Mapping[str, Network],
    wanted: SignatureFilter,
    before: int | None = None,
) -> FoundSignatures:
    """Return the newest *wanted* signatures with a sequence number below *before*."""
    found: FoundRecords = search_records(journal, macs, wanted, before)
    return FoundSignatures(
        [
            _show(each, each.fields, networks)
            for each in found.records
            if each.fields is not None
        ],
        [each.sequence for each in found.records if each.fields is None],
        found.before,
        found.until,
    )


def _show(
    found: FoundRecord, fields: Mapping[str, Any], networks: Mapping[str, Network]
) -> ShownSignature:
    details, outcome = _details(fields), str(fields.get("outcome"))
    network = networks.get(str(fields.get("network")))
    return ShownSignature(
        sequence=found.sequence,
        at=found.at,
        actor=_text(fields, "actor") or "-",
        path=_path(fields),
        tenant=_text(details, "tenant"),
        network=_text(fields, "network"),
        summary=_describe(fields, details),
        address=_text(fields, "address") or "-",
        rule=_text(details, "rule"),
        policy=_text(details, "policy"),
        tx_hash=_text(details, "tx_hash"),
        chain_id=None if network is None else network.chain_id,
        refund_id=found.refund_id,
        problem=None if outcome == SUCCESS else outcome,
    )


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
