"""
The invariants find each violation.

Each case changes one fact of a correct run, and names the invariant that must report
it.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from signer.audit.hash_chain import GENESIS, sealed
from signer.model.audit_record import Record
from tests.crash.evidence import (
    COIN,
    Evidence,
    KeyRow,
    Recorded,
    Row,
    Sent,
    Signed,
    Step,
    Transfer,
)
from tests.crash.invariants import violations
from tests.crash.journal import Entry


WALLET = "0x" + "aa" * 20
TOKEN = "0x" + "cc" * 20
HAPPY = ("queued", "reserved", "signed", "broadcast", "mined", "confirmed")

_AT = datetime(2026, 1, 1, tzinfo=UTC)

Change = Callable[[Evidence], Evidence]


def _customer(number: int) -> str:
    return f"0x{number:040x}"


def _row(number: int) -> Row:
    return Row(
        id=f"rf_{number}",
        key=f"key-{number}",
        token=TOKEN,
        recipient=_customer(number),
        amount=12_500_000,
        status="confirmed",
        version=5,
        chain_id=31337,
        sender=WALLET,
        nonce=number,
        tx_hash=f"0xhash{number}",
        block_number=number + 10,
        block_hash=f"0xblock{number}",
    )


def _signed(row: Row) -> Signed:
    return Signed(
        tx_hash=str(row.tx_hash),
        refund_id=row.id,
        chain_id=row.chain_id,
        sender=WALLET,
        nonce=row.nonce or 0,
        raw_hash=str(row.tx_hash),
        raw_chain_id=row.chain_id,
        raw_nonce=row.nonce or 0,
        digest=f"digest-{row.nonce}",
    )


def _transfer(row: Row) -> Transfer:
    return Transfer(
        tx_hash=str(row.tx_hash),
        token=row.token,
        recipient=row.recipient,
        amount=row.amount,
        block_number=row.block_number or 0,
        block_hash=str(row.block_hash),
        calldata=row.calldata,
    )


def _journal(row: Row) -> list[dict[str, Any]]:
    asked = {"key": row.key, "recipient": row.recipient, "amount": "12.50"}
    reported = {**asked, "id": row.id, "nonce": row.nonce, "tx_hash": row.tx_hash}
    start = (row.nonce or 0) * 100.0
    return [
        {"event": "asked", "at": start, **asked},
        {"event": "failed", "at": start + 1, "key": row.key, "error": "TimeoutError"},
        {"event": "asked", "at": start + 2, **asked},
        {
            "event": "answered",
            "at": start + 4,
            "began": start + 2,
            "http": 201,
            "status": "broadcast",
            **reported,
        },
        {
            "event": "seen",
            "at": start + 6,
            "began": start + 5,
            "status": "confirmed",
            **reported,
        },
    ]


def _audit(
    signed: Iterable[Signed], *, are_batches: bool = False
) -> tuple[Recorded, ...]:
    """Return a chain with the intent of the reservation and the outcome of each."""
    records = list[Record]()
    for each in signed:
        composition = {"composition": "of the batch", "nonce": each.nonce}
        owner: dict[str, Any] = {"refund_id": each.refund_id}
        if are_batches:
            owner = {"details": composition}
        common = {**owner, "address": each.sender}
        intent = {
            "event": "digest-sign-requested",
            "digest": None,
            "monotonic_us": 10_000_000,
        }
        outcome = {
            "event": "digest-sign-succeeded",
            "digest": each.digest,
            "monotonic_us": 30_000_000,
        }
        asked = {"device_request_ids": [f"request-{each.digest}"]}
        records += [
            Record.of({**common, **intent}, _AT),
            Record.of({**common, **outcome, **asked}, _AT),
        ]
    return tuple(
        Recorded.of(link.record.id, link.record.body, link.sequence, link.hash)
        for link in sealed(0, GENESIS, records)
    )


def _run() -> Evidence:
    """Return a correct run of two refunds."""
    rows = (_row(0), _row(1))
    journal = tuple(entry for row in rows for entry in _journal(row))
    return _evidence(rows, journal, {TOKEN: 25_000_000})


def _evidence(
    rows: tuple[Row, ...], journal: tuple[Entry, ...], spent: dict[str, int]
) -> Evidence:
    """Return what is known of *rows*, which are all confirmed."""
    signed = tuple(_signed(row) for row in rows)
    return Evidence(
        decimals=6,
        journal=journal,
        transfers=tuple(_transfer(row) for row in rows),
        sent=tuple(Sent(s.tx_hash, s.nonce, s.digest) for s in signed),
        rows=rows,
        signed=signed,
        steps=tuple(
            Step(row.id, version, status)
            for row in rows
            for version, status in enumerate(HAPPY)
        ),
        spent=spent,
        used={s.digest: 20.0 for s in signed},
        audit=_audit(signed),
        keys=(KeyRow(WALLET, "active", 1),),
    )


def _run_of_calls() -> Evidence:
    """Return a correct run of a coin payment and two calls of one contract."""
    contract = _customer(9)
    coin = replace(_row(0), token=COIN, calldata="0x")
    calls = tuple(
        replace(_row(n), token=COIN, recipient=contract, calldata=f"0xb1c0ffee{n:064x}")
        for n in (1, 2)
    )
    rows = (coin, *calls)
    journal = tuple(
        {
            "event": event,
            "at": 50.0,
            "began": 49.0,
            "key": row.key,
            "recipient": row.recipient,
            "amount": "12.50",
            "calldata": row.calldata,
            "tx_hash": row.tx_hash,
            "is_keyed": True,
        }
        for row in rows
        for event in ("asked", "sent", "mined")
    )
    return _evidence(rows, journal, {COIN: 37_500_000})


def _with_entry(event: str, **changes: Any) -> Change:
    """Add what a JSON-RPC client wrote of the first refund."""

    def change(evidence: Evidence) -> Evidence:
        row = evidence.rows[0]
        entry = {
            "event": event,
            "at": 50.0,
            "began": 49.0,
            "key": row.key,
            "recipient": row.recipient,
            "amount": "12.50",
            "tx_hash": row.tx_hash,
            "is_keyed": True,
            **changes,
        }
        return replace(evidence, journal=(*evidence.journal, entry))

    return change


def _row_with(**changes: Any) -> Change:
    return lambda e: replace(e, rows=(replace(e.rows[0], **changes), *e.rows[1:]))


def _entry_with(index: int, **changes: Any) -> Change:

    def change(evidence: Evidence) -> Evidence:
        journal = list(evidence.journal)
        journal[index] = {**journal[index], **changes}
        return replace(evidence, journal=tuple(journal))

    return change


def _history(*statuses: str) -> Change:
    """Change the history of the first refund, and its row accordingly."""

    def change(evidence: Evidence) -> Evidence:
        steps = tuple(Step("rf_0", n, status) for n, status in enumerate(statuses))
        others = tuple(step for step in evidence.steps if step.refund_id != "rf_0")
        first = replace(
            evidence.rows[0], version=len(statuses) - 1, status=statuses[-1]
        )
        return replace(evidence, steps=steps + others, rows=(first, *evidence.rows[1:]))

    return change


def _paid_again(tx_hash: str) -> Change:
    """Pay the first refund twice, with the balance accordingly."""

    def change(e: Evidence) -> Evidence:
        again = replace(e.transfers[0], tx_hash=tx_hash)
        spent = {TOKEN: e.spent[TOKEN] + again.amount}
        return replace(e, transfers=(*e.transfers, again), spent=spent)

    return change


def _with_bytes(**changes: Any) -> Change:
    """Add a signed transaction of the first refund."""

    def change(e: Evidence) -> Evidence:
        again = {"tx_hash": "0xnew", "raw_hash": "0xnew", **changes}
        return replace(e, signed=(*e.signed, replace(e.signed[0], **again)))

    return change


def _transfer_with(**changes: Any) -> Change:
    return lambda e: replace(
        e, transfers=(replace(e.transfers[0], **changes), *e.transfers[1:])
    )


CASES: dict[str, tuple[Change, str]] = {
    "a refund is paid twice": (
        _paid_again("0xother"),
        "I1: .*.*12500000.* was paid 2 times, and 1 refunds",
    ),
    "a confirmed refund is not paid": (
        lambda e: replace(e, transfers=e.transfers[1:]),
        "I1: .*was paid 0 times, and 1 refunds",
    ),
    "a failed refund is paid": (
        _row_with(status="failed"),
        "I1: .*was paid 1 times, and 0 refunds",
    ),
    "another amount is paid": (
        _transfer_with(amount=12_500_001),
        r"I1: .*was paid \[12500001\], and \[12500000\] requested",
    ),
    "store and chain agree on an amount that no client requested": (
        lambda e: _row_with(amount=1)(_transfer_with(amount=1)(e)),
        r"I1: .*was paid \[1\], and \[12500000\] requested",
    ),
    "an unknown recipient is paid": (
        _transfer_with(recipient=_customer(99)),
        "I1: .*no client requested it",
    ),
    "another token is paid": (
        _transfer_with(token=_customer(7)),
        "I1: .*was paid 0 times, and 1 refunds",
    ),
    "a refund that was reported confirmed is not paid": (
        lambda e: replace(e, transfers=(), rows=(), signed=(), steps=(), spent={}),
        "I1: .*rf_0 was reported confirmed, and paid 0 times",
    ),
    "a confirmed refund names a block that was reorganised away": (
        _row_with(block_hash="0xgone"),
        "I1: .*is not there",
    ),
    "two refunds have one nonce": (
        _row_with(nonce=1),
        "I2: .*nonce .* 1.* belongs to rf_0 and rf_1",
    ),
    "bytes were sent before they were recorded": (
        lambda e: replace(e, sent=(*e.sent, Sent("0xnew", 2, "digest-0"))),
        "I2: .*0xnew with nonce 2 was sent and never recorded",
    ),
    "a refund was signed with two nonces": (
        _with_bytes(nonce=2, raw_nonce=2),
        r"I3: .*rf_0 has the nonces \[0, 2\]",
    ),
    "the bytes have another nonce than their record": (
        _with_bytes(raw_nonce=2),
        r"I3: .*rf_0 has the nonces \[0, 2\]",
    ),
    "the bytes have another hash than their record": (
        _with_bytes(raw_hash="0xother"),
        "I3: .*bytes that are not those of its record",
    ),
    "the client got another nonce": (
        _entry_with(3, nonce=7),
        r"I3: .*rf_0 has the nonces \[0, 7\]",
    ),
    "a state went back": (
        _history("queued", "reserved", "signed", "reserved", "signed", "failed"),
        "I4: .*from signed to reserved",
    ),
    "a final state was left": (
        _history("queued", "reserved", "failed", "broadcast", "mined", "confirmed"),
        "I4: .*from failed to broadcast",
    ),
    "a reserved refund was refused": (
        _history("queued", "reserved", "refused"),
        "I4: .*from reserved to refused",
    ),
    "a step is missing from the history": (
        lambda e: replace(e, steps=e.steps[:2] + e.steps[3:]),
        "I4: .*from reserved to broadcast",
    ),
    "the row is not where its history ends": (
        _row_with(status="mined"),
        "I4: .*is mined, and its history is",
    ),
    "the client saw a state go back": (
        lambda e: _entry_with(3, status="confirmed")(_entry_with(4, status="mined")(e)),
        "I4: .*was reported confirmed, and then mined",
    ),
    "more left the wallet than was confirmed": (
        lambda e: replace(e, spent={TOKEN: 25_000_001}),
        "I5: .*25000001 of .* left the wallets, 25000000 is confirmed",
    ),
    "a signature has no intent": (
        lambda e: replace(e, audit=_audit(e.signed[:1])),
        "I6: .*digest-1 was signed without an intent",
    ),
    "the device signed an unknown digest": (
        lambda e: replace(e, used={**e.used, "digest-9": 20.0}),
        "I6: .*digest-9 was signed without an intent",
    ),
    "an intent is younger than the signature": (
        lambda e: replace(e, used={**e.used, "digest-1": 1.0}),
        "I6: .*digest-1 was signed before its intent",
    ),
    "a nonce was reserved without an intent": (
        _row_with(sender="0x" + "9" * 40),
        "I6: .*rf_0 has a nonce of 0x9+, and no intent",
    ),
    "a record is missing": (
        lambda e: replace(e, audit=(e.audit[0], *e.audit[2:])),
        "I8: .*record 2 is missing: 3 is there",
    ),
    "a record was changed": (
        lambda e: replace(e, audit=(replace(e.audit[0], id="au_0"), *e.audit[1:])),
        "I8: .*record 1 does not follow from the one before",
    ),
    "a record is not canonical": (
        lambda e: replace(
            e, audit=(replace(e.audit[0], body=e.audit[0].body + " "), *e.audit[1:])
        ),
        "I8: .*record 1 is not canonical",
    ),
    "a record is never sealed": (
        lambda e: replace(
            e,
            audit=(
                *e.audit,
                replace(e.audit[0], id=f"au_{0:012x}", sequence=None, hash=None),
            ),
        ),
        "I8: .*au_0+ has waited for its seal for [0-9]+ ms",
    ),
    "two records are of one signature": (
        lambda e: replace(e, audit=(*e.audit, e.audit[1])),
        "I8: .*the request request-digest-0 is in",
    ),
    "two keys are active": (
        lambda e: replace(e, keys=e.keys * 2),
        "O1: .*2 keys are active, and 0 pending",
    ),
    "a rotation is unfinished": (
        lambda e: replace(e, keys=(*e.keys, KeyRow(TOKEN, "pending", None))),
        "O1: .*1 keys are active, and 1 pending",
    ),
    "a promised refund is lost": (
        lambda e: replace(e, rows=e.rows[:1]),
        "I7: .*rf_1 was promised to key-1, and is lost",
    ),
    "a promised refund has another recipient": (
        _row_with(recipient=_customer(5)),
        "I7: .*rf_0 was promised as .*, stored is",
    ),
    "one key was given two refunds": (
        _entry_with(3, id="rf_1"),
        "I7: .*rf_1 was promised to key-0, and is lost",
    ),
    "a client got a hash that no refund has": (
        _with_entry("sent", tx_hash="0xnew"),
        "I7: .*key-0 was answered 0xnew, which no refund has",
    ),
    "a client got the hash of another refund": (
        _with_entry("sent", tx_hash="0xhash1"),
        "I7: .*key-0 was answered 0xhash1, which pays another request",
    ),
    "a client got the hash of a refund that is not paid": (
        lambda e: _row_with(status="failed")(_with_entry("sent")(e)),
        "I7: .*key-0 was answered 0xhash0, and its refund is failed",
    ),
    "a client got the hash of a refund with another key": (
        _with_entry("sent", key="key-9"),
        "I7: .*key-9 was answered 0xhash0, whose refund has the key key-0",
    ),
    "one request became two refunds": (
        lambda e: _with_entry("sent")(_with_entry("sent", tx_hash="0xhash1")(e)),
        "I7: .*key-0 became rf_0 and rf_1",
    ),
    "a client read a receipt of a transaction that is not there": (
        _with_entry("mined", tx_hash="0xgone"),
        "I1: .*key-0 has the receipt of 0xgone, unpaid",
    ),
    "a refund is not final in the end": (
        _history("queued", "reserved", "signed", "broadcast"),
        "G2: .*rf_0 is still broadcast",
    ),
    "a client never got an answer": (
        lambda e: replace(e, journal=e.journal[:1]),
        "G2: .*key-0 was requested and never accepted",
    ),
    "a request was refused": (
        _entry_with(3, http=422),
        "G2: .*key-0 was requested and never accepted",
    ),
}


def _call_made_again(e: Evidence) -> Evidence:
    """Make the second call twice, as two refunds that both are confirmed."""
    again = replace(e.rows[1], id="rf_9", key="key-9", nonce=3, tx_hash="0xhash9")
    return replace(
        e,
        rows=(*e.rows, again),
        transfers=(*e.transfers, _transfer(again)),
        signed=(*e.signed, _signed(again)),
        spent={COIN: e.spent[COIN] + again.amount},
    )


CASES_OF_CALLS: dict[str, tuple[Change, str]] = {
    "a call is made twice by two refunds": (
        _call_made_again,
        "I1: .* with 0xb1c0ffee0+1 was paid 2 times",
    ),
    "a call is made twice by one refund": (
        lambda e: replace(e, transfers=(*e.transfers, e.transfers[1])),
        "I1: .*0xb1c0ffee0+1'.* was paid 2 times, and 1 refunds",
    ),
    "a confirmed call is lost": (
        lambda e: replace(e, transfers=e.transfers[:2]),
        "I1: .*0xb1c0ffee0+2'.* was paid 0 times, and 1 refunds",
    ),
    "a call has other calldata": (
        _transfer_with(calldata="0xb1c0ffee"),
        "I1: .* with 0xb1c0ffee was paid .*, and no client requested it",
    ),
    "a coin payment has another amount": (
        _transfer_with(amount=12_500_001),
        r"I1: .* with 0x was paid \[12500001\], and \[12500000\] requested",
    ),
    "a coin payment reaches another address": (
        _transfer_with(recipient=_customer(7)),
        "I1: .* with 0x was paid .*, and no client requested it",
    ),
    "tokens are sent instead of coin": (
        _transfer_with(token=TOKEN, calldata=None),
        "I1: .*was paid .*, and no client requested it",
    ),
    "more coin left the wallet than was sent": (
        lambda e: replace(e, spent={COIN: e.spent[COIN] + 1}),
        "I5: 37500001 of 0x0+ left the wallets, 37500000 is confirmed",
    ),
    "a client got the hash of another call of the contract": (
        _entry_with(4, tx_hash="0xhash2"),
        "I7: key-1 was answered 0xhash2, which pays another request",
    ),
    "one request became two calls": (
        _entry_with(7, key="key-1"),
        "I7: key-1 became rf_1 and rf_2",
    ),
}


def _run_of_batches() -> Evidence:
    """Return a correct run: a batch skipped the second of two refunds, another paid."""
    run = _run()
    first, second = run.rows
    again = replace(second, nonce=1, version=10, tx_hash="0xhash1", block_number=11)
    skipped = replace(run.signed[0], refund_id=second.id)
    later = (*HAPPY[:-1], *HAPPY)
    steps = tuple(Step(second.id, n, status) for n, status in enumerate(later))
    return replace(
        run,
        rows=(first, again),
        signed=(*run.signed, skipped),
        steps=(*(s for s in run.steps if s.refund_id == first.id), *steps),
        audit=_audit(run.signed, are_batches=True),
        batches=frozenset({(WALLET, 0), (WALLET, 1)}),
        skipped=frozenset({(second.id, WALLET, 0)}),
        marks=("0x00", "0x01"),
    )


CASES_OF_BATCHES: dict[str, tuple[Change, str]] = {
    "the vault pays an item twice": (
        lambda e: replace(e, marks=(*e.marks, "0x00")),
        "I1: the vault has paid 0x00 2 times",
    ),
    "a refund fails that the token would pay": (
        _row_with(status="failed"),
        "I1: rf_0 is failed, and the token would have paid it",
    ),
    "a refund has another nonce before its batch is final": (
        lambda e: replace(e, skipped=frozenset()),
        r"I3: rf_1 has the nonces \[0, 1\]",
    ),
    "a batch has no intent": (
        lambda e: replace(e, audit=e.audit[2:]),
        "I6: rf_0 has a nonce of .*, and no intent",
    ),
    "two plain transactions have one nonce": (
        lambda e: replace(e, batches=frozenset({(WALLET, 1)})),
        "I2: nonce .* belongs to rf_0 and rf_1",
    ),
}


CASES_OF: dict[Callable[[], Evidence], dict[str, tuple[Change, str]]] = {
    _run: CASES,
    _run_of_calls: CASES_OF_CALLS,
    _run_of_batches: CASES_OF_BATCHES,
}


@pytest.mark.parametrize("run", CASES_OF)
def test_a_correct_run_has_no_violations(run: Callable[[], Evidence]) -> None:
    """No check reports it."""
    assert violations(run()) == []


@pytest.mark.parametrize(
    ("run", "name"), [(run, name) for run, cases in CASES_OF.items() for name in cases]
)
def test_a_violation_is_found(run: Callable[[], Evidence], name: str) -> None:
    """The invariant reports the changed fact."""
    change, violation = CASES_OF[run][name]

    found = violations(change(run()))

    assert any(re.match(violation, each) for each in found), found


@pytest.mark.parametrize("event", ["sent", "mined"])
def test_a_hash_of_the_clients_own_refund_is_no_violation(event: str) -> None:
    assert violations(_with_entry(event)(_run())) == []


@pytest.mark.parametrize("event", ["sent", "abandoned"])
def test_a_request_without_an_http_answer_may_be_served(event: str) -> None:
    """A JSON-RPC client got a hash, or stopped before it would make a new request."""
    unanswered = _entry_with(3, http=503)(_run())

    assert violations(unanswered) != []
    assert violations(_with_entry(event)(unanswered)) == []


def test_a_reorganisation_is_no_violation() -> None:
    """Mined may go back to broadcast, and broadcast to signed for a better offer."""
    history = (*HAPPY[:5], "broadcast", "signed", "broadcast", "mined", "confirmed")

    assert violations(_history(*history)(_run())) == []


def test_requests_that_overlap_may_be_answered_in_any_order() -> None:
    """An older answer may arrive after a newer one, if it was asked for before."""
    late = _entry_with(4, status="broadcast", began=1.0)(
        _entry_with(3, status="confirmed")(_run())
    )

    assert violations(late) == []


def test_a_revoked_reservation_is_no_violation() -> None:
    """A refund whose key was revoked before it signed is queued again."""
    history = ("queued", "reserved", *HAPPY)
    requeued = _history(*history)(_entry_with(3, status="reserved", nonce=7)(_run()))

    revoked = KeyRow("0x" + "bb" * 20, "blocked", 1)

    assert violations(requeued) != []
    assert violations(replace(requeued, keys=(*requeued.keys, revoked))) == []
