"""
The invariants I1 to I7, judged by evidence alone; nothing here is the service's.

Each violation is a sentence.  No sentence, no violation.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from tests.simulation.evidence import Evidence, Row
from tests.simulation.witness import ADDRESSES
from tests.support.invariants import (
    AFTER_REVOCATION,
    FINAL,
    find_violations,
    legal_history,
    one_nonce,
    one_owner,
)


# A ledger that was restored finds mined what it does not remember to have sent.
_AFTER_RESTORE = frozenset({("queued", "mined"), ("reserved", "mined")})

# How a refund ends by whose name another one was paid, which the ledger forgot.
_FORGOTTEN = frozenset({"already-paid", "transfer-mismatch"})


def violations(evidence: Evidence) -> list[str]:
    """Return a sentence for each thing that must never happen, and did."""
    return find_violations(CHECKS, evidence)


def _paid_once(evidence: Evidence) -> Iterator[str]:
    """I1: at most one transfer for what is known by one name, and exactly as asked."""
    names = {ask.amount: ask.reference for ask in evidence.asks}
    paid = Counter(names.get(amount, "nobody") for _, amount in _paid(evidence))
    for name, times in paid.items():
        if times > 1:
            yield f"{name} was paid {times} times"


def _paid_iff_confirmed(evidence: Evidence) -> Iterator[str]:
    """I1: one transfer if and only if the refund is confirmed."""
    paid = Counter(_paid(evidence))
    for row in _refunds(evidence):
        times = paid.pop((row.recipient, row.amount), 0)
        due = row.status == "confirmed" or _is_paid_before(row, evidence)
        if times != due and not _may_be_paid(row, evidence):
            yield f"{row.reference} is {row.status}, and was paid {times} times"
    for recipient, amount in paid:
        if (recipient, amount) not in _contradicted(evidence):
            yield f"{recipient} got {amount}, and no refund says so"


def _one_owner(evidence: Evidence) -> Iterator[str]:
    """I2: each nonce belongs to one refund, in the ledger."""
    yield from one_owner(_holdings(evidence))


def _one_nonce(evidence: Evidence) -> Iterator[str]:
    """
    I3: a refund has one nonce, in all that was recorded and ever seen of it.

    The exception is a nonce that a revoked key reserved and never signed.
    """
    seen = (
        (refund_id, nonce)
        for refund_id, nonces in evidence.witness.nonces.items()
        for nonce in nonces
        if not _is_given_up(nonce, evidence)
    )
    yield from one_nonce((*seen, *_holdings(evidence)))


def _one_payee(evidence: Evidence) -> Iterator[str]:
    """I2 and I3, from the network: one payment for a nonce, one nonce for a payment."""
    if evidence.plan.is_restored:
        return  # What it sent and forgot, it may give to somebody else.
    sent = {(w.slot, w.payment) for w in evidence.sent if w.payment is not None}
    for slot, times in Counter(slot for slot, _ in sent).items():
        if times > 1:
            yield f"nonce {slot} was sent for {times} refunds"
    paid = Counter(payment for _, payment in sent if payment[0] not in ADDRESSES)
    for payment, times in paid.items():
        if times > 1:
            yield f"{payment} was sent with {times} nonces"


def _recorded_first(evidence: Evidence) -> Iterator[str]:
    """I2: whatever reaches a node is in the ledger before."""
    for tx_hash in evidence.unrecorded:
        yield f"{tx_hash} was sent before it was recorded"


def _forward(evidence: Evidence) -> Iterator[str]:
    """I4: states move along the graph, from queued to the row's own."""
    exceptions = set(_AFTER_RESTORE) if evidence.plan.is_restored else set()
    if evidence.given_up:
        exceptions.add(AFTER_REVOCATION)
    for row in evidence.rows:
        yield from legal_history(row, evidence.history[row.id], exceptions)


def _sums(evidence: Evidence) -> Iterator[str]:
    """I5: what left the wallet is what is confirmed."""
    known = _contradicted(evidence)
    left = sum(paid[1] for paid in _paid(evidence) if paid not in known)
    confirmed = sum(
        row.amount
        for row in _refunds(evidence)
        if row.status == "confirmed" or _is_paid_before(row, evidence)
    )
    if left != confirmed and not any(_may_be_paid(r, evidence) for r in evidence.rows):
        yield f"{left} left the wallet, and {confirmed} is confirmed"


def _announced(evidence: Evidence) -> Iterator[str]:
    """I6: whatever was signed was announced to the audit log before."""
    for digest in evidence.witness.unannounced:
        yield f"{digest} was signed without a word to the audit log"


def _kept_promises(evidence: Evidence) -> Iterator[str]:
    """I7: whatever a client was told is in the ledger, and never was another thing."""
    rows = {row.id: row for row in evidence.rows}
    told = defaultdict(set)
    for each in evidence.journal.told:
        told[each.ask.key].add((each.refund_id, each.body))
        row = rows.get(each.refund_id)
        if row is None or (row.key, row.amount) != (each.ask.key, each.ask.amount):
            yield f"{each.refund_id} was promised to {each.ask.key}, and is not there"
        if evidence.answers.get(each.refund_id) != each.body:
            yield f"{each.ask.key} was told what is not kept: {each.body}"
    for key, bodies in told.items():
        if len(bodies) > 1:
            yield f"{key} was told {sorted(bodies)}"


def _turned_down(evidence: Evidence) -> Iterator[str]:
    """I7: nobody is turned down but for another who asked by the same name."""
    served = {told.ask.reference for told in evidence.journal.told}
    for ask in evidence.journal.turned_down:
        if ask.reference not in served:
            yield f"{ask.key} was turned down, and nobody else has {ask.reference}"


def _finished(evidence: Evidence) -> Iterator[str]:
    """G2: everything accepted is at its end, but for what a stranger keeps waiting."""
    for row in evidence.rows:
        if row.status not in FINAL and not _may_wait(row, evidence):
            yield f"{row.id} is still {row.status}"
    if evidence.unaccepted and not evidence.is_paused and not evidence.plan.attended:
        yield "a stranger has the key, and the wallet goes on"
    if evidence.is_paused and not evidence.unaccepted and not evidence.plan.has_foreign:
        yield "the wallet is paused, and nothing keeps it"


def _swept(evidence: Evidence) -> Iterator[str]:
    """O8: a sweep is confirmed if and only if the chain has moved just that."""
    moved = {
        wire.slot: wire.payment or (wire.to, wire.value)
        for wire, succeeded in evidence.mined
        if succeeded and (wire.value or (wire.payment or ("",))[0] in ADDRESSES)
    }
    for row in evidence.rows:
        if not row.is_sweep or _is_stranded(row, evidence):
            continue
        if evidence.plan.is_restored and row.failure in _FORGOTTEN:
            continue  # Another amount was moved by this name, before the restore.
        found = moved.get((str(row.sender), -1 if row.nonce is None else row.nonce))
        expected = (row.recipient, row.amount) if row.status == "confirmed" else None
        if found != expected:
            yield f"sweep {row.id} is {row.status}, and the chain moved {found}"


def _swept_home(evidence: Evidence) -> Iterator[str]:
    """O8: nobody means to move anything to a key that is not the active one."""
    active = next(iter(ADDRESSES))
    for said in evidence.audit:
        if said["event"] == "key-rotate-succeeded":
            active = said["key_address"]
        is_intent = said["event"] == "digest-sign-requested"
        if not (is_intent and said["operation"] == "key-sweep"):
            continue
        meant = said["details"]
        if meant["kind"] == "transfer" and meant["recipient"] != active:
            yield f"a sweep was to pay {meant['recipient']}, and {active} is active"


def _noticed(evidence: Evidence) -> Iterator[str]:
    """R23: what somebody else signed with the key is written down."""
    for tx_hash in evidence.last_look.strangers - evidence.sighted:
        yield f"nobody noticed the stranger's {tx_hash}"


CHECKS: tuple[tuple[str, Callable[[Evidence], Iterator[str]]], ...] = (
    ("I1", _paid_once),
    ("I1", _paid_iff_confirmed),
    ("I2", _one_owner),
    ("I2", _one_payee),
    ("I2", _recorded_first),
    ("I3", _one_nonce),
    ("I4", _forward),
    ("I5", _sums),
    ("I6", _announced),
    ("I7", _kept_promises),
    ("I7", _turned_down),
    ("G2", _finished),
    ("O8", _swept),
    ("O8", _swept_home),
    ("R23", _noticed),
)


def _holdings(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield which refund has which nonce, by rows and by signed bytes."""
    yield from evidence.recorded.values()
    for row in evidence.rows:
        if row.nonce is not None:
            yield row.id, f"{row.sender} n{row.nonce}"


def _paid(evidence: Evidence) -> list[tuple[str, int]]:
    """Return recipient and amount of every transfer to a customer on the chain."""
    return [
        wire.payment
        for wire, succeeded in evidence.mined
        if succeeded and wire.payment is not None and wire.payment[0] not in ADDRESSES
    ]


def _refunds(evidence: Evidence) -> list[Row]:
    return [row for row in evidence.rows if not row.is_sweep]


def _is_paid_before(row: Row, evidence: Evidence) -> bool:
    """Whether a restored ledger refused the refund, since the chain has paid it."""
    return evidence.plan.is_restored and row.failure == "already-paid"


def _may_wait(row: Row, evidence: Evidence) -> bool:
    """Whether the refund waits for a person."""
    return _waits_for_acceptance(row, evidence) or _is_stranded(row, evidence)


def _waits_for_acceptance(row: Row, evidence: Evidence) -> bool:
    """Whether the refund waits for somebody to accept what is foreign."""
    is_blocked = evidence.unaccepted and evidence.is_paused
    return row.status == "queued" and is_blocked and not evidence.plan.attended


def _is_stranded(row: Row, evidence: Evidence) -> bool:
    """Whether a key that was given up has signed the refund, and it was not mined."""
    if row.status not in {"signed", "broadcast"} or row.nonce is None:
        return False
    mined = evidence.last_look.counts.get(str(row.sender), 0)
    return row.sender in evidence.given_up and mined <= row.nonce


def _is_given_up(nonce: str, evidence: Evidence) -> bool:
    return nonce.split(maxsplit=1)[0] in evidence.given_up


def _may_be_paid(row: Row, evidence: Evidence) -> bool:
    """Whether nobody looked, or could yet, whether the chain has paid it."""
    if _is_stranded(row, evidence):
        return True
    return evidence.plan.is_restored and _waits_for_acceptance(row, evidence)


def _contradicted(evidence: Evidence) -> set[tuple[str, int]]:
    """
    Return what was paid before the ledger was restored, and is asked for otherwise now.

    The refund that asks for another amount fails, and says that it does not match.
    """
    if not evidence.plan.is_restored:
        return set()
    failed = {
        row.reference: row.recipient
        for row in evidence.rows
        if row.failure == "transfer-mismatch" or _may_be_paid(row, evidence)
    }
    return {
        (failed[ask.reference], ask.amount)
        for ask in evidence.asks
        if ask.reference in failed
    }
