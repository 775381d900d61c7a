"""
Reads the events of refunds, signatures and keys in an audit log, as one trace.

Another program that can write to the database may insert records of any form.  Those
that no process of the service can have written end no reading: they are malformed.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from signer import strict_json
from signer.audit.actions import AuditAction
from signer.audit.hash_chain import Forgeries, hash_id, is_canonical, read_fields
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, made_at
from signer.model.transaction import compose


INTENT = AuditAction.DIGEST_SIGN.requested
SIGNED = "digest-sign-succeeded"
UNSIGNED = "digest-sign-refused"
ACCEPTED = "refund-accept-succeeded"
CANCELLED = "refund-cancel-succeeded"
ROTATED = "key-rotate-succeeded"
REVOKED = "key-revoke-succeeded"
REINSTATED = "key-reinstate-succeeded"
STOPPED = "signing-stop-succeeded"
RESUMING = AuditAction.SIGNING_RESUME.requested
PROPOSED = "approval-request-succeeded"
APPROVED = "approval-use-succeeded"

# Stored records keep the names of the version that wrote them.
_OLD = {
    "signing-intent": INTENT,
    "rotation": ROTATED,
    "key-blocked": REVOKED,
    "nonce-pause": STOPPED,
    "nonce-resume-intent": RESUMING,
}
_EVENTS = frozenset(
    {
        *_OLD,
        *_OLD.values(),
        SIGNED,
        UNSIGNED,
        ACCEPTED,
        CANCELLED,
        PROPOSED,
        APPROVED,
        REINSTATED,
        "signing",
    }
)

_PAY = "refund-pay"

_TEXTS = ("operation", "address", "refund_id", "digest", "network", "node", "outcome")
_DETAIL_TEXTS = (
    "kind",
    "recipient",
    "key_address",
    "previous_key_address",
    "network",
    "refund_id",
    "digest",
    "state",
)
_MAX_TEXT = 256
_DETAIL_NUMBERS = ("nonce", "attempt")


@dataclass(frozen=True, slots=True)
class Event:
    """
    One record of the trace.

    ``sequence`` counts the records of the chain from 1, ``at`` is when the record was
    drafted, and ``name`` is the name of the newest version.  The types of the fields
    that the rules read are verified.
    """

    sequence: int
    record_id: str
    at: datetime
    name: str
    fields: Mapping[str, Any]
    details: Mapping[str, Any]

    @property
    def refund_id(self) -> str | None:
        """The refund that the record is about, or None."""
        # A signature has it beside the details, an acceptance in them.
        return self.fields.get("refund_id") or self.details.get("refund_id")

    @property
    def address(self) -> str:
        """The address of the key that signs."""
        return str(self.fields.get("address"))

    @property
    def wallet(self) -> tuple[int | str, str]:
        """Chain id and sender of a transaction."""
        return self.details["chain_id"], self.address

    @property
    def is_reservation(self) -> bool:
        """Whether it is the intent that is stored with a nonce, of refunds."""
        pays = self.refund_id is not None or self.each_payment
        return self.name == INTENT and bool(pays) and self.fields.get("digest") is None

    @property
    def each_payment(self) -> Sequence["Event"]:
        """Of a batch, what the record would be for each of its refunds alone."""
        ids = self.details.get("payments")
        return [
            replace(self, fields={**self.fields, "refund_id": id_})
            for id_ in (ids if isinstance(ids, list) else ())
        ]

    @property
    def has_composition(self) -> bool:
        """Whether the digest of a batch is that of its refunds."""
        ids = [str(each.refund_id) for each in self.each_payment]
        return self.details.get("composition") in {None, compose(ids)}

    @property
    def proposed_refund_id(self) -> str | None:
        """The refund that a proposal is to pay; None for other events."""
        proposal = self.details.get("proposal")
        if not isinstance(proposal, str):
            return None
        with suppress(InvalidInputError):
            match strict_json.parse(proposal.encode(errors="replace")):
                case {"action": str(action), "refund_id": str(id_)} if action == _PAY:
                    return id_
        return None

    @property
    def attempt(self) -> tuple[int, int, str] | None:
        """Nonce, number and kind of a transaction that is signed; None of others."""
        match self.details:
            case {"nonce": nonce, "attempt": number, "kind": kind, "chain_id": _}:
                return nonce, number, kind
        return None


@dataclass(frozen=True, slots=True)
class MalformedEvent:
    """A record that no process of the service can have written, and why."""

    sequence: int
    record_id: str
    problem: str


def read_events(
    records: Iterable[Record],
) -> tuple[Sequence[Event], Sequence[MalformedEvent]]:
    """Return the events in the chain *records* that no later record declares forged."""
    forgeries = Forgeries()
    found = [
        (sequence, record)
        for sequence, record in enumerate(forgeries.watch(records), 1)
        if str(read_fields(record).get("event")) in _EVENTS
    ]
    forged = forgeries.declarers()
    events, malformed = list[Event](), list[MalformedEvent]()
    for sequence, record in found:
        if hash_id(record.id) in forged:
            continue
        fields = read_fields(record)
        details = fields.get("details", {})
        at = made_at(record.id)
        problem = _find_problem(record, fields, details)
        if problem is None and at is not None:
            name = _name(fields)
            events.append(Event(sequence, record.id, at, name, fields, details))
        else:
            malformed.append(
                MalformedEvent(sequence, record.id, problem or "its id has no time")
            )
    return events, malformed


def _name(fields: Mapping[str, Any]) -> str:
    event = str(fields["event"])
    is_refused = fields.get("outcome", "success") != "success"
    if event == "signing":
        return UNSIGNED if is_refused else SIGNED
    # An old event had one name for success and refusal.
    return (
        f"{event}-refused" if is_refused and event in _OLD else _OLD.get(event, event)
    )


def _find_problem(
    record: Record, fields: Mapping[str, Any], details: object
) -> str | None:
    if not is_canonical(record):
        return "its id or body is not in canonical form"
    if not isinstance(details, dict):
        return "it has no valid details"
    checks = {
        **{name: _is_text(fields.get(name)) for name in _TEXTS},
        **{name: _is_text(details.get(name)) for name in _DETAIL_TEXTS},
        **{name: type(details.get(name, 0)) is int for name in _DETAIL_NUMBERS},
        # Of a stop it is a text.
        "chain_id": type(details.get("chain_id", 0)) in {int, str},
        "pid": type(fields.get("pid", 0)) is int,
    }
    invalid = [name for name, is_valid in checks.items() if not is_valid]
    return f"it has no valid {', '.join(invalid)}" if invalid else None


def _is_text(value: object) -> bool:
    # Messages repeat it: it must not move the cursor of a terminal.
    is_text = isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable()
    return value is None or is_text
