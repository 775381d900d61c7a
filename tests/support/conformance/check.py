"""
Checks an audit log as a trace of the nonce lifecycle.

The rules are those of the model (``tests/model/nonces.pml``), as far as records show
them.  A log that breaks one was not written by this service alone, or the service has a
bug: either may have paid twice.  ``docs/reference/audit.md`` lists the rules.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from signer.model.audit_record import Operation, Record
from tests.support.conformance.events import (
    ACCEPTED,
    CANCELLED,
    INTENT,
    SIGNED,
    UNSIGNED,
    Event,
    MalformedEvent,
    read_events,
)
from tests.support.conformance.history import History
from tests.support.conformance.verdict import Conformance, Rule, Violation


_PAID = ("chain_id", "token_address", "token_symbol", "recipient", "amount", "tenant")

_TRANSFER, _NOOP = "transfer", "noop"


@dataclass(slots=True)
class _Refund:
    """What earlier records say about a refund."""

    paid: tuple[object, ...] | None = None
    acceptances: int = 0
    cancelled: int | None = None
    reserved_by: set[str] = field(default_factory=set)
    nonces: dict[tuple[int | str, str], int] = field(default_factory=dict)
    signed: set[tuple[str, int, str]] = field(default_factory=set)


def check_conformance(records: Iterable[Record]) -> Conformance:
    """Check all *records* of a chain, in their order, which may have forged ones."""
    events, malformed = read_events(records)
    trace = _Trace(History(events))
    violations = [each for event in events for each in trace.add(event)]
    violations += map(_malformed, malformed)
    violations.sort(key=lambda each: each.sequence)
    return Conformance(
        len(trace.refunds), trace.signatures, trace.unfinished(), violations
    )


class _Trace:
    """The state after the events added so far."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.refunds = defaultdict[str, _Refund](_Refund)
        self.signatures = 0
        self._owners = dict[Hashable, str]()
        self._intents = Counter[Hashable]()
        self._rules: dict[str, Callable[[Event], Iterator[tuple[Rule, str]]]] = {
            ACCEPTED: self._accept,
            CANCELLED: self._cancel,
            INTENT: self._intend,
            SIGNED: self._sign,
            UNSIGNED: self._answer,
        }

    def add(self, event: Event) -> Iterator[Violation]:
        """Yield the rules that *event* breaks after the earlier ones, and add it."""
        rules = self._rules.get(event.name)
        if rules is None:
            return  # ``History`` has read it.
        for rule, message in rules(event):
            yield Violation(event.sequence, event.record_id, rule, message)

    def unfinished(self) -> int:
        """Return how many intents have no outcome."""
        return self._intents.total()

    def _accept(self, event: Event) -> Iterator[tuple[Rule, str]]:
        refund = self.refunds[str(event.refund_id)]
        refund.acceptances += 1
        if refund.acceptances > 1:
            yield Rule.ACCEPTED_ONCE, f"refund {event.refund_id} is accepted again"
        yield from self._compare(event, refund)

    def _cancel(self, event: Event) -> Iterator[tuple[Rule, str]]:
        refund = self.refunds[str(event.refund_id)]
        refund.cancelled = event.sequence
        yield from self._compare(event, refund)
        yield from self._require_accepted(event)
        for address in refund.reserved_by:
            if not self._history.may_be_revoked(address, event):
                yield (
                    Rule.CANCELLED_UNSIGNED,
                    f"refund {event.refund_id} is cancelled with a nonce of {address}",
                )

    def _intend(self, event: Event) -> Iterator[tuple[Rule, str]]:
        self._intents[_work(event, event.fields.get("digest"))] += 1
        if self._history.is_surely_revoked(event.address, event):
            yield Rule.REVOKED_KEY_IS_SILENT, f"{event.address} was revoked before"
        if self._history.is_stopped(event):
            yield Rule.STOP_IS_SILENT, "signing was stopped"
        is_batch = event.refund_id is None
        for each in event.each_payment if is_batch else [event]:
            yield from self._require_payable(each)
        if event.is_reservation and not self._history.is_active(event.address, event):
            yield (
                Rule.ACTIVE_KEY_RESERVES,
                f"a nonce of {event.address} is reserved, which is not active",
            )
        if is_batch:
            yield from self._require_batch(event)
            return
        refund = self.refunds[str(event.refund_id)]
        yield from self._compare(event, refund)
        if event.is_reservation:
            refund.reserved_by.add(event.address)
        else:
            yield from self._require_attempt(event, refund)

    def _require_payable(self, event: Event) -> Iterator[tuple[Rule, str]]:
        refund = self.refunds[str(event.refund_id)]
        if refund.cancelled is not None:
            yield (
                Rule.CANCELLED_IS_FINAL,
                f"record {refund.cancelled} cancelled refund {event.refund_id}",
            )
        yield from self._require_accepted(event)
        yield from self._require_approved(event, refund)

    def _require_batch(self, event: Event) -> Iterator[tuple[Rule, str]]:
        """Check that a batch has one list of refunds, and its nonce."""
        if not event.has_composition:
            yield Rule.SAME_PAYMENT, "the digest is not that of the refunds"
        nonce, name = event.details.get("nonce"), event.details.get("composition")
        if nonce is None or name is None:
            return
        owner = self._owners.setdefault((event.wallet, nonce), str(name))
        if owner != name and not (
            self._history.may_be_reinstated(event.address, event)
        ):
            yield (
                Rule.ONE_OWNER,
                f"nonce {nonce} of {event.address} belongs to {owner}",
            )

    def _sign(self, event: Event) -> Iterator[tuple[Rule, str]]:
        self.signatures += 1
        yield from self._answer(event)
        if event.refund_id is None:
            yield from self._require_batch(event)
        else:
            refund = self.refunds[event.refund_id]
            yield from self._compare(event, refund)
            yield from self._require_attempt(event, refund)
            if event.attempt is not None:
                nonce, number, kind = event.attempt
                refund.signed.add((f"{event.address}/{nonce}", number, kind))

    def _answer(self, event: Event) -> Iterator[tuple[Rule, str]]:
        # The intent in a reservation precedes the digest.
        for digest in (event.fields.get("digest"), None):
            work = _work(event, digest)
            if self._intents[work] > 0:
                self._intents[work] -= 1
                return
        yield Rule.INTENT_FIRST, "no intent of this process precedes the outcome"

    def _require_accepted(self, event: Event) -> Iterator[tuple[Rule, str]]:
        if not self._history.is_accepted(event):
            yield Rule.ACCEPTED_FIRST, f"refund {event.refund_id} is not accepted"

    def _require_approved(
        self, event: Event, refund: _Refund
    ) -> Iterator[tuple[Rule, str]]:
        # A no-op pays nothing, and a replacement nothing more than the transfer.
        is_noop = event.attempt is not None and event.attempt[2] == _NOOP
        if is_noop or refund.signed:
            return
        if self._history.is_unapproved(event):
            yield Rule.APPROVED_FIRST, f"refund {event.refund_id} was not approved"

    def _compare(self, event: Event, refund: _Refund) -> Iterator[tuple[Rule, str]]:
        paid = tuple(event.details.get(name) for name in _PAID)
        refund.paid = refund.paid or paid
        changed = [
            name
            for name, before, now in zip(_PAID, refund.paid, paid, strict=True)
            if before != now
        ]
        if changed:
            yield (
                Rule.SAME_PAYMENT,
                f"another {', '.join(changed)} than before, of {event.refund_id}",
            )

    def _require_attempt(
        self, event: Event, refund: _Refund
    ) -> Iterator[tuple[Rule, str]]:
        """Check the nonce, number and kind of a transaction."""
        if event.attempt is None:
            return
        nonce, number, kind = event.attempt
        owner = self._owners.setdefault((event.wallet, nonce), str(event.refund_id))
        if owner != event.refund_id and self._may_have_lost(owner, event):
            self._owners[event.wallet, nonce] = str(event.refund_id)
        elif owner != event.refund_id and not (
            self._may_have_lost(str(event.refund_id), event)
        ):
            yield (
                Rule.ONE_OWNER,
                f"nonce {nonce} of {event.address} belongs to refund {owner}",
            )
        for wallet, other in self._other_nonces(event, refund, nonce):
            yield (
                Rule.ONE_NONCE,
                f"refund {event.refund_id} has nonce {other} of {wallet} already",
            )
        refund.nonces[event.wallet] = nonce
        # After a transfer comes a transfer or a no-op, after a no-op a no-op.
        before = {_TRANSFER} if kind == _TRANSFER else {_TRANSFER, _NOOP}
        place = f"{event.address}/{nonce}"
        if number and not any((place, number - 1, k) in refund.signed for k in before):
            yield (
                Rule.ATTEMPT_ORDER,
                f"attempt {number} ({kind}) does not follow attempt {number - 1}",
            )
        if event.fields.get("operation") == Operation.KEY_SWEEP and kind == _TRANSFER:
            yield from self._require_active_recipient(event)

    def _may_have_lost(self, refund_id: str, event: Event) -> bool:
        """
        Return whether a revocation may have taken the nonce of *event* from a refund.

        The key was reinstated since and is active again, and the refund got a nonce of
        another key, or was cancelled.
        """
        refund = self.refunds[refund_id]
        others = refund.reserved_by - {event.address}
        is_elsewhere = bool(others) or refund.cancelled is not None
        return is_elsewhere and self._history.may_be_reinstated(event.address, event)

    def _other_nonces(
        self, event: Event, refund: _Refund, nonce: int
    ) -> Iterator[tuple[str, int]]:
        # A revocation takes the nonce of an unsigned refund away.  Signatures that were
        # not used may be recorded later, also after a reinstatement.
        if self._history.may_be_revoked(event.address, event):
            return
        for (chain_id, address), other in refund.nonces.items():
            is_same = ((chain_id, address), other) == (event.wallet, nonce)
            if not is_same and not self._history.may_be_revoked(address, event):
                yield address, other

    def _require_active_recipient(self, event: Event) -> Iterator[tuple[Rule, str]]:
        recipient = str(event.details.get("recipient"))
        is_intent = event.name == INTENT
        if is_intent and not self._history.is_active(recipient, event):
            yield Rule.SWEEP_PAYS_ACTIVE_KEY, f"{recipient} is not the active key's"


def _work(event: Event, digest: object) -> Hashable:
    """Return what an intent and its outcome have in common; one process writes both."""
    fields = event.fields
    return event.address, event.refund_id, digest, fields.get("node"), fields.get("pid")


def _malformed(each: MalformedEvent) -> Violation:
    return Violation(each.sequence, each.record_id, Rule.WELL_FORMED, each.problem)
