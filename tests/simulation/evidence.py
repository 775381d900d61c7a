"""What there is to see after a schedule: of the ledger, the chain and the clients."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.simulation.chain import SimulatedChain
from tests.simulation.clients import Ask, Clients, Journal
from tests.simulation.ledger import Ledger
from tests.simulation.plan import Plan
from tests.simulation.wire import Wire
from tests.simulation.witness import Witness


@dataclass(frozen=True, slots=True)
class Row:
    """A refund, or a sweep, as its row has it; ``amount`` in base units."""

    id: str
    key: str
    reference: str
    recipient: str
    amount: int
    status: str
    version: int
    sender: str | None
    nonce: int | None
    failure: str | None
    is_sweep: bool


@dataclass(frozen=True, slots=True)
class LastLook:
    """
    What the chain had when the processes ended: next nonces by sender.

    And the hashes of strangers' transactions that were mined while workers watched.
    """

    counts: Mapping[str, int]
    strangers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    All that the invariants are judged by.

    ``mined`` is what the canonical chain has, in order, and whether it succeeded;
    ``sent`` is all that a node ever took, and ``unrecorded`` what a node was given
    before the ledger had it.  ``history`` has the statuses of each refund by version,
    ``audit`` the records in the order of their commits, ``sighted`` the hashes that
    the ledger found on the chain, and ``unaccepted`` says whether some of them wait
    for a person.  ``given_up`` are the addresses of keys that were blocked.
    """

    plan: Plan
    rows: tuple[Row, ...]
    history: dict[str, list[tuple[int, str]]]
    recorded: dict[str, tuple[str, str]]
    answers: dict[str, str]
    audit: tuple[dict[str, Any], ...]
    sighted: frozenset[str]
    unaccepted: bool
    is_paused: bool
    mined: tuple[tuple[Wire, bool], ...]
    sent: tuple[Wire, ...]
    unrecorded: tuple[str, ...]
    given_up: frozenset[str]
    last_look: LastLook
    asks: tuple[Ask, ...]
    journal: Journal
    witness: Witness


_FINAL = "('confirmed', 'refused', 'cancelled', 'failed')"

_COLUMNS = (
    # Amounts are text of 78 digits.
    "id, idempotency_key, reference, recipient, CAST(amount AS INTEGER), status,"
    " version, sender, nonce, failure_code, client = 'hotwallet sweep'"
)


def is_settled(ledger: Ledger, chain: SimulatedChain, plan: Plan) -> bool:
    """Say whether nothing will happen any more, by itself."""
    given_up = _given_up(ledger)
    left = [
        status
        for status, sender, nonce in ledger.select(
            f"SELECT status, sender, nonce FROM refunds WHERE status NOT IN {_FINAL}"
        )
        # What a blocked key has signed may wait for ever, where no pool has it.
        if sender not in given_up or chain.pending(sender) > nonce
    ]
    if _strangers(ledger, chain) - _sighted(ledger):
        return False
    if not plan.attended and _unaccepted(ledger):
        return all(status == "queued" for status in left)
    return not left and not _is_paused(ledger)


def last_look(ledger: Ledger, chain: SimulatedChain) -> LastLook:
    """Return what the chain has at this moment."""
    return LastLook(dict(chain.head.tip.counts), _strangers(ledger, chain))


def gathered(
    plan: Plan,
    ledger: Ledger,
    chain: SimulatedChain,
    clients: Clients,
    witness: Witness,
    looked: LastLook,
) -> Evidence:
    """Read everything, by SELECT through the bare driver and from the blocks."""
    rows = [
        Row(*row)
        for row in ledger.select(f"SELECT {_COLUMNS} FROM refunds ORDER BY id")
    ]
    history: dict[str, list[tuple[int, str]]] = {row.id: [] for row in rows}
    for refund_id, version, status in ledger.select(
        "SELECT refund_id, version, status FROM refund_moves ORDER BY version"
    ):
        history[refund_id].append((version, status))
    return Evidence(
        plan=plan,
        rows=tuple(rows),
        history=history,
        recorded={
            tx_hash: (refund_id, nonce)
            for tx_hash, refund_id, nonce in ledger.select(
                "SELECT tx_hash, refund_id, sender || ' n' || nonce FROM transactions"
            )
        },
        answers=dict(ledger.select("SELECT refund_id, body FROM answers")),
        audit=tuple(
            json.loads(body)
            for (body,) in ledger.select(
                "SELECT body FROM audit_records ORDER BY rowid"
            )
        ),
        sighted=_sighted(ledger),
        unaccepted=_unaccepted(ledger),
        is_paused=_is_paused(ledger),
        mined=_mined(chain),
        sent=tuple(chain.sent.values()),
        unrecorded=tuple(chain.unrecorded),
        given_up=_given_up(ledger),
        last_look=looked,
        asks=tuple(clients.asks),
        journal=clients.journal,
        witness=witness,
    )


def _strangers(ledger: Ledger, chain: SimulatedChain) -> frozenset[str]:
    """
    Return what strangers have sent that must be noticed.

    Nobody watches a wallet before it pays, nor behind the first look when its key was
    given up.
    """
    opened = {sender for (sender,) in ledger.select("SELECT sender FROM wallets")}
    watched = opened - _given_up(ledger)
    return frozenset(wire.hash for wire in chain.strangers if wire.sender in watched)


def _is_paused(ledger: Ledger) -> bool:
    return bool(ledger.select("SELECT 1 FROM wallets WHERE paused_by IS NOT NULL"))


def _sighted(ledger: Ledger) -> frozenset[str]:
    return frozenset(each for (each,) in ledger.select("SELECT tx_hash FROM sightings"))


def _given_up(ledger: Ledger) -> frozenset[str]:
    found = ledger.select("SELECT address FROM keys WHERE state = 'blocked'")
    return frozenset(address for (address,) in found)


def _unaccepted(ledger: Ledger) -> bool:
    return bool(
        ledger.select(
            "SELECT 1 FROM sightings WHERE mark IS NULL AND accepted_at IS NULL"
        )
    )


def _mined(chain: SimulatedChain) -> tuple[tuple[Wire, bool], ...]:
    return tuple(
        (mined.wire, mined.succeeded)
        for minted in chain.head.blocks
        for mined in minted.mined
    )
