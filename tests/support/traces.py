"""Audit records as a trace: made one by one, and ways to break a real one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.model.approval import Proposal
from signer.model.audit_record import (
    WORKER,
    Actor,
    Operation,
    Purpose,
    Record,
    Subject,
    made_at,
)
from signer.model.refund import new_refund_id
from signer.model.transaction import compose
from tests.support.audit import START
from tests.support.conformance.events import ACCEPTED, INTENT, SIGNED
from tests.support.conformance.verdict import Rule


_NETWORK = "local"

Records = Sequence[Record]


def address_of(key: int) -> str:
    return f"0x{key:040d}"


class Recorder:
    """Drafts the records of a service, *apart* from each other."""

    def __init__(self, apart: timedelta = timedelta(seconds=10)) -> None:
        self.records: list[Record] = []
        self._apart = apart
        self._at = START
        self._ids: dict[int, str] = {}

    def refund_id(self, refund: int) -> str:
        return self._ids.setdefault(refund, new_refund_id(self._at))

    def accept(self, refund: int) -> None:
        self._result(AuditAction.REFUND_ACCEPT, Operation.REFUND, **self._pays(refund))

    def propose(self, refund: int) -> None:
        """Record that a refund needs an approval."""
        proposal = self._proposal(refund)
        action = AuditAction.APPROVAL_REQUEST
        self._approval(action, proposal, state="waiting", proposal=proposal.text)

    def use_approval(self, refund: int, state: str = "done") -> None:
        self._approval(AuditAction.APPROVAL_USE, self._proposal(refund), state=state)

    def _proposal(self, refund: int) -> Proposal:
        return Proposal("refund-pay", {"refund_id": self.refund_id(refund)})

    def _approval(self, action: AuditAction, of: Proposal, **details: str) -> None:
        operation = Operation.ADMINISTRATION
        self._result(action, operation, digest=of.digest, **details)

    def cancel(self, refund: int) -> None:
        self._result(AuditAction.REFUND_CANCEL, Operation.REFUND, **self._pays(refund))

    def reserve(self, refund: int, key: int = 0, worker: int = 0) -> None:
        """Record the intent that is stored with a reservation."""
        audit = self._log(worker)
        self._add(audit.intent(self._purpose(refund, epoch=1), _subject(key)))

    def intend(
        self, refund: int, key: int = 0, worker: int = 0, **details: Any
    ) -> None:
        """Record an intent to sign a transaction."""
        given = {"nonce": 0, "attempt": 0, "kind": "transfer", **details}
        audit, digest = self._log(worker), _digest(refund, key, worker, given)
        intent = audit.intent(self._purpose(refund, **given), _subject(key), digest)
        self._add(intent)

    def sign(
        self,
        refund: int,
        key: int = 0,
        worker: int = 0,
        outcome: str = "success",
        **details: Any,
    ) -> None:
        given = {"nonce": 0, "attempt": 0, "kind": "transfer", **details}
        digest = _digest(refund, key, worker, given)
        record = self._log(worker).outcome(
            self._purpose(refund, **given),
            _subject(key),
            digest=digest,
            outcome=outcome,
            seconds=0.001,
        )
        self._add(record)

    def batch(
        self, *refunds: int, key: int = 0, nonce: int = 0, **changes: Any
    ) -> None:
        """Record the intent of a batch in its reservation, and its signature."""
        ids = [self.refund_id(each) for each in refunds]
        details = {
            "chain_id": 31337,
            "vault": address_of(91),
            "composition": compose(ids),
            "payments": ids,
            "nonce": nonce,
            **changes,
        }
        log, subject = self._log(0), _subject(key)
        reserved = Purpose(
            Operation.TRANSACTION_SIGNING, _NETWORK, WORKER.name, details=details
        )
        self._add(log.intent(reserved, subject))
        signed = {**details, "attempt": 0, "kind": "transfer"}
        digest = _digest(key, signed)
        self._add(
            log.outcome(
                replace(reserved, details=signed),
                subject,
                digest=digest,
                outcome="success",
                seconds=0.001,
            )
        )

    def rotate(self, before: int | None, after: int, **details: Any) -> None:
        """Record a rotation from one key to another."""
        previous = None if before is None else address_of(before)
        facts = {"key_address": address_of(after), "previous_key_address": previous}
        self._result(AuditAction.KEY_ROTATE, Operation.KEY_ROTATION, **facts, **details)

    def revoke(self, key: int) -> None:
        facts = {"key_address": address_of(key)}
        self._result(AuditAction.KEY_REVOKE, Operation.KEY_ROTATION, **facts)

    def reinstate(self, key: int) -> None:
        facts = {"key_address": address_of(key)}
        self._result(AuditAction.KEY_REINSTATE, Operation.KEY_ROTATION, **facts)

    def stop(self, network: str | None, **details: str) -> None:
        action = AuditAction.SIGNING_STOP
        self._result(action, Operation.ADMINISTRATION, network=network, **details)

    def resume(self, network: str | None) -> None:
        """Record the request to end a stop."""
        actor = Actor("cli:operator")
        action = AuditAction.SIGNING_RESUME
        self._add(
            self._log(0).request(
                action, Operation.ADMINISTRATION, actor, network=network
            )
        )

    def _purpose(self, refund: int, **details: Any) -> Purpose:
        operation = details.pop("operation", Operation.TRANSACTION_SIGNING)
        paid = self._pays(refund)
        id_ = paid.pop("refund_id")
        return Purpose(
            operation, _NETWORK, WORKER.name, refund_id=id_, details={**paid, **details}
        )

    def _pays(self, refund: int) -> dict[str, Any]:
        return {
            "refund_id": self.refund_id(refund),
            "chain_id": 31337,
            "token_address": address_of(90),
            "token_symbol": "USDC",
            "recipient": address_of(100 + refund),
            "amount": "12.50",
            "tenant": "gateway",
        }

    def _log(self, worker: int) -> AuditLog:
        return AuditLog(_Silence(), lambda: self._at, node=f"worker-{worker}")

    def _result(self, action: AuditAction, operation: Operation, **facts: Any) -> None:
        self._add(self._log(0).result(action, operation, WORKER, **facts))

    def _add(self, record: Record) -> None:
        self.records.append(record)
        self._at += self._apart


class _Silence:
    def info(self, event: str, **fields: Any) -> None:
        """Discard the event."""


def _subject(key: int) -> Subject:
    return Subject("pkcs11", f"key-{key}", address_of(key))


def _digest(*given: object) -> bytes:
    return repr(given).encode().ljust(32)[-32:]


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change of a trace that was accepted, and the rule that the result breaks."""

    name: str
    rule: Rule
    apply: Callable[[Records], Records]


def _time(record: Record) -> datetime:
    return made_at(record.id) or START


def _like(record: Record, at: datetime | None = None, **fields: Any) -> Record:
    """Return *record* with other *fields*, of which ``details`` are added."""
    before = record.fields
    details = {**before.get("details", {}), **fields.pop("details", {})}
    changed = Record.of({**before, **fields, "details": details}, at or _time(record))
    return changed if at else Record(record.id, changed.body)


def _find(records: Records, event: str, **details: object) -> int:
    """Return the last record of *event* about a signed refund, with *details*."""
    signed = {each.fields.get("refund_id") for each in records if _is(each, SIGNED)}
    return max(
        number
        for number, each in enumerate(records)
        if _is(each, event)
        and {each.fields.get("refund_id"), _details(each).get("refund_id")}
        & (signed - {None})
        and all(_details(each).get(name) == value for name, value in details.items())
    )


def _is(record: Record, event: str) -> bool:
    return bool(record.fields["event"] == event)


def _details(record: Record) -> Mapping[str, Any]:
    details: Mapping[str, Any] = record.fields.get("details", {})
    return details


def _without(records: Records, number: int) -> Records:
    return [*records[:number], *records[number + 1 :]]


def _changed(records: Records, number: int, **fields: Any) -> Records:
    return [*records[:number], _like(records[number], **fields), *records[number + 1 :]]


def _first(records: Records, event: str, **details: Any) -> Records:
    """Return the trace after a record of *event*, a minute before the others."""
    at = _time(records[0]) - timedelta(minutes=1)
    return [Record.of({"event": event, "details": details}, at), *records]


def _signs_again(records: Records, **details: Any) -> Records:
    """Return the trace with one more signature of its last refund."""
    signed = records[_find(records, SIGNED)]
    at = max(map(_time, records)) + timedelta(minutes=1)
    intent = _like(signed, at, event=INTENT, details=details)
    return [*records, intent, _like(signed, at, details=details)]


def _other_owner(records: Records) -> Records:
    number = _find(records, SIGNED)
    last = records[number].fields
    nonce = next(
        _details(each)["nonce"]
        for each in records
        if _is(each, SIGNED)
        and each.fields["refund_id"] not in {None, last["refund_id"]}
        and each.fields["address"] == last["address"]
    )
    return _changed(records, number, details={"nonce": nonce})


def _signer(records: Records) -> str:
    return str(records[_find(records, SIGNED)].fields["address"])


def _forget_intents(records: Records) -> Records:
    last = records[_find(records, SIGNED)].fields["refund_id"]
    return [
        each
        for each in records
        if not (_is(each, INTENT) and each.fields.get("refund_id") == last)
    ]


def _cancel_signed(records: Records) -> Records:
    accepted = records[_find(records, ACCEPTED)]
    at = max(map(_time, records)) + timedelta(minutes=1)
    return [*records, _like(accepted, at, event="refund-cancel-succeeded")]


def _cancel_before(records: Records) -> Records:
    number = _find(records, ACCEPTED)
    cancelled = _like(
        records[number], _time(records[number]), event="refund-cancel-succeeded"
    )
    return [*records[: number + 1], cancelled, *records[number + 1 :]]


MUTATIONS = (
    Mutation(
        "an acceptance is missing",
        Rule.ACCEPTED_FIRST,
        lambda records: _without(records, _find(records, ACCEPTED)),
    ),
    Mutation(
        "a refund is accepted twice",
        Rule.ACCEPTED_ONCE,
        lambda records: [*records, records[_find(records, ACCEPTED)]],
    ),
    Mutation(
        "another recipient is signed",
        Rule.SAME_PAYMENT,
        lambda records: _changed(
            records, _find(records, SIGNED), details={"recipient": address_of(7)}
        ),
    ),
    Mutation(
        "another amount is to be signed",
        Rule.SAME_PAYMENT,
        lambda records: _changed(
            records, _find(records, INTENT), details={"amount": "9000"}
        ),
    ),
    Mutation("the intents are missing", Rule.INTENT_FIRST, _forget_intents),
    Mutation("a nonce of another refund", Rule.ONE_OWNER, _other_owner),
    Mutation(
        "a second nonce",
        Rule.ONE_NONCE,
        lambda records: _signs_again(records, nonce=1_000_000),
    ),
    Mutation(
        "an attempt is missing",
        Rule.ATTEMPT_ORDER,
        lambda records: _signs_again(records, attempt=90),
    ),
    Mutation("a signed refund is cancelled", Rule.CANCELLED_UNSIGNED, _cancel_signed),
    Mutation("a cancelled refund is signed", Rule.CANCELLED_IS_FINAL, _cancel_before),
    Mutation(
        "a revoked key signs",
        Rule.REVOKED_KEY_IS_SILENT,
        lambda records: _first(
            records, "key-revoke-succeeded", key_address=_signer(records)
        ),
    ),
    Mutation(
        "the key of a reservation is not active",
        Rule.ACTIVE_KEY_RESERVES,
        lambda records: _first(
            records,
            "key-rotate-succeeded",
            key_address=address_of(7),
            previous_key_address=_signer(records),
        ),
    ),
    Mutation(
        "signing is stopped",
        Rule.STOP_IS_SILENT,
        lambda records: _first(records, "signing-stop-succeeded", network=None),
    ),
    Mutation(
        "a nonce is a text",
        Rule.WELL_FORMED,
        lambda records: _changed(
            records, _find(records, SIGNED), details={"nonce": "1"}
        ),
    ),
)
"""Each needs a trace with two refunds that one key has signed."""
