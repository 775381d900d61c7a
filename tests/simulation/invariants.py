"""
Judges a schedule by the invariants I1 to I7, G2, O1, O8, R23 and R33.

It uses only the evidence, and shares no code with the service.  The checks that the
crash laboratory shares are in ``tests/support/invariants.py``.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from tests.simulation.clients import customer
from tests.simulation.evidence import Evidence, Row, find_waiting
from tests.simulation.observer import ADDRESSES
from tests.support import invariants as shared
from tests.support.invariants import AFTER_REVOCATION, FINAL, SKIPPED


# A restored ledger finds transactions on the chain that it does not know.
_AFTER_RESTORE = frozenset({("queued", "mined"), ("reserved", "mined")})

# Another program has used the nonce of its batch.
_NONCE_TAKEN = frozenset(
    (each, "queued") for each in ("reserved", "signed", "broadcast")
)

# The failures of a refund that was paid before a restore, perhaps another amount.
_FORGOTTEN = frozenset({"already-paid", "transfer-mismatch"})


def violations(evidence: Evidence) -> list[str]:
    """Return a sentence for each violation of an invariant."""
    return shared.find_violations(CHECKS, evidence)


def _paid_as_requested(evidence: Evidence) -> Iterator[str]:
    requested: defaultdict[str, set[int]] = defaultdict(set)
    for order in evidence.orders:
        requested[customer(order.reference)].add(order.amount)
    yield from shared.paid_as_requested(_paid(evidence), requested)


def _paid_iff_confirmed(evidence: Evidence) -> Iterator[str]:
    known = _paid_before_restore(evidence)
    unclear = {_terms(r) for r in evidence.rows if _may_be_paid(r, evidence)}
    yield from shared.paid_iff_confirmed(
        (paid for paid in _paid(evidence) if paid not in known),
        map(_terms, _confirmed(evidence)),
        unclear,
    )


def _failed_for_a_reason(evidence: Evidence) -> Iterator[str]:
    """I1: the token refused the recipient of what fails in a batch."""
    for row in evidence.rows:
        is_refund = not (row.is_sweep or row.is_filler) and evidence.plan.per_batch
        is_refused = row.recipient in evidence.blocked
        if is_refund and row.status == "failed" and not is_refused:
            yield f"{row.id} is failed ({row.failure}), and was not refused"


def _one_owner(evidence: Evidence) -> Iterator[str]:
    yield from shared.one_owner(
        (refund_id, nonce)
        for refund_id, nonce in _holdings(evidence)
        if nonce not in evidence.batches
    )


def _one_nonce(evidence: Evidence) -> Iterator[str]:
    """
    I3: a refund has one nonce, in all that was recorded and ever seen of it.

    The exceptions are a nonce that a revoked key reserved and never signed, and that
    of a final batch that has not paid the refund.
    """
    seen = (
        (refund_id, nonce)
        for refund_id, nonces in evidence.observer.nonces.items()
        for nonce in nonces
        if nonce.split(maxsplit=1)[0] not in evidence.revoked
    )
    held = {*seen, *_holdings(evidence)}
    yield from shared.one_nonce(sorted(held - evidence.skipped))


def _one_live_nonce(evidence: Evidence) -> Iterator[str]:
    """I3: nothing is sent for a payment that another nonce may still make."""
    yield from () if evidence.plan.is_restored else evidence.early


def _one_payment_per_nonce(evidence: Evidence) -> Iterator[str]:
    """I2 and I3, from the network: one payment per nonce, one nonce per payment."""
    sent = {(tx.slot, tx.asked) for tx in evidence.sent if tx.asked}
    for slot, times in Counter(slot for slot, _ in sent).items():
        if times > 1:
            yield f"nonce {slot} was sent for {times} refunds"
    sent = {(slot, asked) for slot, asked in sent if not evidence.plan.per_batch}
    if evidence.has_forgotten:
        return  # A refund gets another nonce once a filler has used its own.
    paid = Counter(asked[0] for _, asked in sent if asked[0][0] not in ADDRESSES)
    for payment, times in paid.items():
        if times > 1:
            yield f"{payment} was sent with {times} nonces"


def _recorded_first(evidence: Evidence) -> Iterator[str]:
    """I2: the ledger has a transaction before a node gets it."""
    for tx_hash in evidence.unrecorded:
        yield f"{tx_hash} was sent before it was recorded"


def _legal_history(evidence: Evidence) -> Iterator[str]:
    exceptions = set(_AFTER_RESTORE) if evidence.plan.is_restored else set()
    if evidence.revoked:
        exceptions.add(AFTER_REVOCATION)
    if evidence.plan.per_batch:
        exceptions |= {SKIPPED, *_NONCE_TAKEN}
    for row in evidence.rows:
        if not row.is_filler:  # A transaction has no history of its own.
            yield from shared.legal_history(row, evidence.history[row.id], exceptions)


def _equal_sums(evidence: Evidence) -> Iterator[str]:
    if any(_may_be_paid(row, evidence) for row in evidence.rows):
        return
    known = _paid_before_restore(evidence)
    spent = sum(paid[1] for paid in _paid(evidence) if paid not in known)
    confirmed = sum(row.amount for row in _confirmed(evidence))
    yield from shared.equal_sums({"token": spent}, {"token": confirmed})


def _signed_with_intent(evidence: Evidence) -> Iterator[str]:
    """I6: the intent of each signature is in the audit log before."""
    for digest in evidence.observer.without_intent:
        yield f"the digest {digest} was signed without an intent"


def _kept_promises(evidence: Evidence) -> Iterator[str]:
    answers = evidence.journal.answers
    yield from shared.kept_promises(
        ((a.order.key, a.refund_id, a.order.amount) for a in answers),
        {row.id: (row.key, row.amount) for row in evidence.rows},
    )


def _kept_in_log(evidence: Evidence) -> Iterator[str]:
    """
    I7: with the log, a restored ledger keeps what clients were promised.

    A cancellation may have to wait for a revoked key's wallet, or for an operator, as
    its refund does.
    """
    if not (evidence.plan.is_restored and evidence.plan.has_log):
        return
    unlogged = evidence.observer.unlogged
    rows = {row.id: row for row in evidence.rows}
    for answer in evidence.journal.earlier:
        if answer.refund_id not in {*rows, *unlogged}:
            yield f"{answer.refund_id} was promised to {answer.order.key}, and is lost"
    for refund_id in evidence.journal.cancelled - unlogged:
        if refund_id not in rows:
            yield f"{refund_id} was cancelled, and is lost"
            continue
        row = rows[refund_id]
        waits = evidence.stuck or _waits_for_operator(row, evidence)
        waits = waits and row.status == "queued" and row.asks_cancel
        if row.status != "cancelled" and not waits:
            yield f"{refund_id} was cancelled, and is {row.status}"


def _found_paid(evidence: Evidence) -> Iterator[str]:
    """I1: a refund that is said to be paid already was paid."""
    recipients = {recipient for recipient, _ in _paid(evidence)}
    for row in evidence.rows:
        if row.failure in _FORGOTTEN and row.recipient not in recipients:
            yield f"{row.id} is {row.status} ({row.failure}), and was not paid"
        if row.failure in _FORGOTTEN and not evidence.has_forgotten:
            yield f"{row.id} is {row.status} ({row.failure}), and nothing was forgotten"


def _fillers_pay_nothing(evidence: Evidence) -> Iterator[str]:
    """I1: fillers end without a payment, or are signed and wait for an operator."""
    fillers = {row.id: row for row in evidence.rows if row.is_filler}
    for row in fillers.values():
        waits = row.status != "reserved" and _waits_for_operator(row, evidence)
        waits |= bool(evidence.stuck)
        if row.status not in {"failed", "confirmed"} and not waits:
            yield f"filler {row.id} is {row.status}"
    filled = {tx_hash: id_ for tx_hash, id_, _ in evidence.recorded if id_ in fillers}
    for tx in evidence.sent:
        if tx.hash in filled and (tx.value or tx.data):
            yield f"filler {filled[tx.hash]} sent {tx.hash}, which is not a no-op"


def _rightly_rejected(evidence: Evidence) -> Iterator[str]:
    """I7: an order is rejected only if another one has its reference."""
    served = {answer.order.reference for answer in evidence.journal.answers}
    for order in evidence.journal.rejected:
        if order.reference not in served:
            yield f"{order.key} was rejected, and no order has {order.reference}"


def _finished(evidence: Evidence) -> Iterator[str]:
    """G2: every refund is final, unless it waits for an operator."""
    for row in evidence.rows:
        waits = _waits_for_operator(row, evidence) or _is_stranded(row, evidence)
        waits |= bool(evidence.stuck)
        if row.status not in FINAL and not waits:
            yield f"{row.id} is still {row.status}"
    if evidence.unaccepted and not evidence.is_paused and not evidence.plan.attended:
        yield "the wallet has a foreign transaction, and is not paused"
    may_pause = evidence.unaccepted or evidence.plan.has_foreign or evidence.stuck
    if evidence.is_paused and not may_pause:
        yield "the wallet is paused without a foreign transaction"


def _one_active_key(evidence: Evidence) -> Iterator[str]:
    yield from shared.one_active_key(evidence.key_states)


def _swept_iff_confirmed(evidence: Evidence) -> Iterator[str]:
    """O8: a sweep is confirmed if and only if the chain moved exactly its amount."""
    chain = ((each.transaction, each.succeeded) for each in evidence.mined)
    moved = {
        tx.slot: tx.payment or (tx.to, tx.value)
        for tx, succeeded in chain
        if succeeded and (tx.value or (tx.payment or ("",))[0] in ADDRESSES)
    }
    for row in evidence.rows:
        if not row.is_sweep or _is_stranded(row, evidence):
            continue
        if evidence.has_forgotten and row.failure in _FORGOTTEN:
            continue  # Its nonce moved another amount before the restore.
        found = moved.get((str(row.sender), -1 if row.nonce is None else row.nonce))
        expected = _terms(row) if row.status == "confirmed" else None
        if found != expected:
            yield f"sweep {row.id} is {row.status}, and the chain moved {found}"


def _swept_to_active_key(evidence: Evidence) -> Iterator[str]:
    """O8: each intent of a sweep pays the key that is active at that time."""
    active = next(iter(ADDRESSES))
    for record in evidence.audit:
        if record["event"] == "key-rotate-succeeded":
            active = record["details"]["key_address"]
        is_intent = record["event"] == "digest-sign-requested"
        if not (is_intent and record["operation"] == "key-sweep"):
            continue
        sweep = record["details"]
        if sweep["kind"] == "transfer" and sweep["recipient"] != active:
            yield f"a sweep was to pay {sweep['recipient']}, and {active} is active"


def _within_window(evidence: Evidence) -> Iterator[str]:
    """R33: nodes have at most so many transactions of a wallet that are not mined."""
    window = evidence.plan.window
    # A restored ledger does not know what it has forgotten.
    if window and evidence.most_waiting > window and not evidence.plan.is_restored:
        yield f"{evidence.most_waiting} transactions waited, and the window is {window}"


def _foreign_is_noticed(evidence: Evidence) -> Iterator[str]:
    """R23: the ledger records each foreign transaction."""
    for tx_hash in evidence.foreign_at_end - evidence.sighted:
        yield f"the foreign transaction {tx_hash} was not noticed"


CHECKS: tuple[tuple[str, Callable[[Evidence], Iterator[str]]], ...] = (
    ("I1", _paid_as_requested),
    ("I1", _paid_iff_confirmed),
    ("I1", _found_paid),
    ("I1", _failed_for_a_reason),
    ("I1", _fillers_pay_nothing),
    ("I2", _one_owner),
    ("I2", _one_payment_per_nonce),
    ("I2", _recorded_first),
    ("I3", _one_nonce),
    ("I3", _one_live_nonce),
    ("I4", _legal_history),
    ("I5", _equal_sums),
    ("I6", _signed_with_intent),
    ("I7", _kept_promises),
    ("I7", _kept_in_log),
    ("I7", _rightly_rejected),
    ("G2", _finished),
    ("O1", _one_active_key),
    ("O8", _swept_iff_confirmed),
    ("O8", _swept_to_active_key),
    ("R23", _foreign_is_noticed),
    ("R33", _within_window),
)


def _terms(row: Row) -> tuple[str, int]:
    return row.recipient, row.amount


def _holdings(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield refund id and nonce, from rows and from signed bytes."""
    for _, refund_id, nonce in evidence.recorded:
        yield refund_id, nonce
    for row in evidence.rows:
        if row.nonce is not None:
            yield row.id, f"{row.sender} n{row.nonce}"


def _paid(evidence: Evidence) -> list[tuple[str, int]]:
    """Return recipient and amount of every transfer to a customer on the chain."""
    return [
        payment
        for mined in evidence.mined
        for payment in mined.paid
        if payment[0] not in ADDRESSES
    ]


def _confirmed(evidence: Evidence) -> list[Row]:
    """Return the refunds that are confirmed."""
    return [
        row
        for row in evidence.rows
        if not row.is_sweep and not row.is_filler and row.status == "confirmed"
    ]


def _waits_for_operator(row: Row, evidence: Evidence) -> bool:
    """Whether the refund waits until an operator accepts a foreign transaction."""
    is_blocked = evidence.unaccepted and evidence.is_paused
    if not is_blocked or evidence.plan.attended:
        return False
    places = [each.place for each in evidence.rows]
    return row.place in find_waiting(evidence.plan, places)


def _is_stranded(row: Row, evidence: Evidence) -> bool:
    """
    Whether a revoked key has signed the refund, and it is not mined.

    A restored ledger does not know whether the refund of a logged nonce was signed.
    """
    signed = {"signed", "broadcast"}
    if evidence.plan.is_restored:
        signed.add("reserved")
    if row.status not in signed or row.nonce is None:
        return False
    mined = evidence.nonces_at_end.get(str(row.sender), 0)
    return row.sender in evidence.revoked and mined <= row.nonce


def _may_be_paid(row: Row, evidence: Evidence) -> bool:
    """Whether no process can know yet if the chain has paid the refund."""
    waits = _waits_for_operator(row, evidence) or bool(evidence.stuck)
    is_open = row.status not in FINAL
    return _is_stranded(row, evidence) or (
        evidence.plan.is_restored and is_open and waits
    )


def _paid_before_restore(evidence: Evidence) -> set[tuple[str, int]]:
    """
    Return payments of orders whose refunds the chain may have paid before a restore.

    The ledger forgot which order of a reference it had accepted, so that a refund finds
    a payment that is not its own amount.
    """
    unclear = {
        row.reference: row.recipient
        for row in evidence.rows
        if row.failure in _FORGOTTEN or _may_be_paid(row, evidence)
    }
    return {
        (unclear[order.reference], order.amount)
        for order in evidence.orders
        if evidence.has_forgotten and order.reference in unclear
    }
