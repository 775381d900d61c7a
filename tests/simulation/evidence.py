"""The facts of a schedule that the invariants judge: ledger, chain and clients."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tests.simulation.chain import Mined, SimulatedChain
from tests.simulation.clients import Clients, Journal, Order
from tests.simulation.ledger import Ledger
from tests.simulation.observer import Observer
from tests.simulation.plan import Plan
from tests.simulation.transaction import Transaction


Place = tuple[str, str | None, Any]
"""Status, sender and nonce of a refund or of a filler."""


@dataclass(frozen=True, slots=True)
class Row:
    """
    The row of a refund, a sweep or a filler; ``amount`` in base units.

    ``asks_cancel`` is whether a request to cancel it is stored.
    """

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
    is_filler: bool
    asks_cancel: bool

    @property
    def place(self) -> Place:
        """Status, sender and nonce."""
        return self.status, self.sender, self.nonce


ChainAtEnd = tuple[Mapping[str, int], frozenset[str]]
"""Next nonces by sender, and hashes of foreign transactions to notice."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    Everything that is known of one schedule.

    ``mined`` has the transactions on the canonical chain and whether they succeeded,
    ``sent`` all that a node ever accepted, and ``unrecorded`` the hashes that a node
    got before the ledger had them.  ``early`` has what was sent for a payment before
    its earlier nonce was final.  ``recorded`` has hash, refund and nonce of attempts,
    ``batches`` the nonces of batches, and ``skipped`` refund and nonce of the payments
    that have left a final one.  The token refuses ``blocked`` recipients.  ``history``
    has (version, status) of each refund,
    ``audit`` the records in the order of their commits, and ``sighted`` the hashes that
    the ledger found on the chain; ``unaccepted`` is whether some of them wait for an
    operator.  ``revoked`` has the addresses of revoked keys, and ``stuck`` those whose
    wallets no operator may abandon.  ``nonces_at_end`` and
    ``foreign_at_end`` are of the moment when the processes ended.  ``most_waiting`` and
    ``dropped`` are those of the chain.
    """

    plan: Plan
    rows: tuple[Row, ...]
    history: dict[str, list[tuple[int, str]]]
    recorded: tuple[tuple[str, str, str], ...]
    skipped: frozenset[tuple[str, str]]
    batches: frozenset[str]
    audit: tuple[dict[str, Any], ...]
    sighted: frozenset[str]
    unaccepted: bool
    is_paused: bool
    mined: tuple[Mined, ...]
    sent: tuple[Transaction, ...]
    unrecorded: tuple[str, ...]
    early: tuple[str, ...]
    blocked: frozenset[str]
    revoked: frozenset[str]
    stuck: frozenset[str]
    key_states: tuple[str, ...]
    nonces_at_end: Mapping[str, int]
    foreign_at_end: frozenset[str]
    most_waiting: int
    dropped: int
    orders: tuple[Order, ...]
    journal: Journal
    observer: Observer

    @property
    def has_forgotten(self) -> bool:
        """Whether the ledger was restored without a log that has everything."""
        has_all = self.plan.has_log and not self.observer.unlogged
        return self.plan.is_restored and not has_all


_AUDIT = "SELECT body FROM audit_records ORDER BY rowid"
_UNACCEPTED = (
    "SELECT 1 FROM unrecorded_transactions WHERE memo IS NULL AND accepted_at IS NULL"
)
_FINAL = "('confirmed', 'refused', 'cancelled', 'failed')"

_ROWS = "refunds LEFT JOIN transactions USING (chain_id, sender, nonce)"
_STATUS = "CASE state WHEN 'assigned' THEN status ELSE state END"

_COLUMNS = (
    # Amounts are text of 78 digits.
    "id, idempotency_key, reference, recipient, CAST(amount AS INTEGER),"
    f" {_STATUS}, refunds.version + coalesce(transactions.version, 0), sender, nonce,"
    " failure_code, purpose = 'sweep',"
    " 0, cancel_requested_at IS NOT NULL"
)


# They pay nothing, and no client knows them.
_FILLERS = (
    "SELECT sender || ' n' || nonce, '', '', sender, 0, status, version, sender, nonce,"
    " CASE WHEN block_number IS NULL THEN 'nonce-taken' ELSE 'nonce-filled' END,"
    " 0, 1, 0"
    " FROM transactions WHERE kind = 'filler'"
)


_RECORDED = (
    "SELECT tx_hash, payment_id, sender || ' n' || nonce FROM attempts"
    " JOIN transaction_payments USING (chain_id, sender, nonce)"
    " UNION ALL SELECT attempts.tx_hash, sender || ' n' || nonce,"
    " sender || ' n' || nonce FROM attempts"
    " JOIN transactions USING (chain_id, sender, nonce)"
    " WHERE transactions.kind = 'filler'"
)

_SKIPPED = (
    "SELECT payment_id, sender || ' n' || nonce FROM transaction_payments AS given"
    " JOIN transactions USING (chain_id, sender, nonce)"
    " WHERE kind = 'batch' AND status IN ('confirmed', 'failed') AND NOT EXISTS"
    " (SELECT 1 FROM refunds WHERE id = payment_id AND sender = given.sender"
    " AND nonce = given.nonce)"
)

_BATCHES = "SELECT sender || ' n' || nonce FROM transactions WHERE kind = 'batch'"


def is_settled(ledger: Ledger, chain: SimulatedChain, plan: Plan) -> bool:
    """Whether no process has anything left to do."""
    revoked = _revoked(ledger)
    left = [
        (status, sender, nonce)
        for status, sender, nonce in ledger.select(
            f"SELECT {_STATUS}, sender, nonce FROM {_ROWS}"
            f" WHERE state NOT IN {_FINAL}"
            " UNION ALL SELECT status, sender, nonce FROM transactions"
            f" WHERE kind = 'filler' AND status NOT IN {_FINAL}"
        )
        # The transaction of a revoked key waits forever if no pool has it, once a
        # worker has seen that it is not mined any more.
        if sender not in revoked or status == "mined" or chain.pending(sender) > nonce
    ]
    if _foreign(ledger, chain) - _unrecorded(ledger):
        return False
    if not plan.attended and _unaccepted(ledger):
        return find_waiting(plan, left).issuperset(left)
    return not left and not _is_paused(ledger)


def find_waiting(plan: Plan, rows: Collection[Place]) -> set[Place]:
    """
    Return those of *rows* that wait until an operator accepts a foreign transaction.

    A restore gives refunds their nonces of former keys back, before it is known what
    the later keys have sent.  Signed transactions with higher nonces of the same wallet
    wait for them.
    """
    is_given_back = plan.is_restored and plan.turns
    statuses = {"queued", "reserved"} if is_given_back else {"queued"}
    waiting = {row for row in rows if row[0] in statuses}
    held = {(sender, nonce) for _, sender, nonce in waiting if nonce is not None}
    return waiting | {
        (status, sender, nonce)
        for status, sender, nonce in rows
        if status in {"signed", "broadcast"}
        and any(other == sender and lower < nonce for other, lower in held)
    }


def find_stuck(ledger: Ledger, chain: SimulatedChain, plan: Plan) -> frozenset[str]:
    """
    Return revoked keys whose wallets stay paused.

    A restored ledger may have forgotten a transaction, and no key can fill its nonce.
    """
    paused = ledger.select("SELECT sender FROM wallets WHERE paused_by IS NOT NULL")
    return frozenset(
        sender
        for (sender,) in paused
        if plan.is_restored
        and sender in _revoked(ledger)
        and (not plan.attended or chain.may_mine(sender))
    )


def read_chain(ledger: Ledger, chain: SimulatedChain) -> ChainAtEnd:
    """Return the chain's current state, for when the processes have ended."""
    return dict(chain.head.tip.counts), _foreign(ledger, chain)


def gather(
    plan: Plan,
    ledger: Ledger,
    chain: SimulatedChain,
    clients: Clients,
    observer: Observer,
    at_end: ChainAtEnd,
) -> Evidence:
    """Read the ledger by SELECT through the bare driver, and the blocks."""
    found = ledger.select(f"SELECT {_COLUMNS} FROM {_ROWS} ORDER BY id")
    rows = [Row(*row) for row in found]
    rows += [Row(*row) for row in ledger.select(_FILLERS)]
    history: dict[str, list[tuple[int, str]]] = {row.id: [] for row in rows}
    for refund_id, version, status in ledger.select(
        "SELECT refund_id, version, status FROM refund_moves ORDER BY version"
    ):
        history[refund_id].append((version, status))
    return Evidence(
        plan=plan,
        rows=tuple(rows),
        history=history,
        recorded=tuple(ledger.select(_RECORDED)),
        skipped=frozenset(ledger.select(_SKIPPED)),
        batches=frozenset(nonce for (nonce,) in ledger.select(_BATCHES)),
        audit=tuple(json.loads(body) for (body,) in ledger.select(_AUDIT)),
        sighted=_unrecorded(ledger),
        unaccepted=_unaccepted(ledger),
        is_paused=_is_paused(ledger),
        mined=tuple(mined for block in chain.head.blocks for mined in block.mined),
        sent=tuple(chain.sent.values()),
        unrecorded=tuple(chain.unrecorded),
        early=tuple(chain.early),
        blocked=frozenset(chain.blocklist),
        revoked=_revoked(ledger),
        stuck=find_stuck(ledger, chain, plan),
        key_states=tuple(s for (s,) in ledger.select("SELECT state FROM keys")),
        nonces_at_end=at_end[0],
        foreign_at_end=at_end[1],
        most_waiting=chain.most,
        dropped=chain.dropped,
        orders=tuple(clients.orders),
        journal=clients.journal,
        observer=observer,
    )


def _foreign(ledger: Ledger, chain: SimulatedChain) -> frozenset[str]:
    """
    Return the foreign transactions that workers must notice.

    They watch a wallet only after its first payment, and until its key is revoked.
    """
    used = {sender for (sender,) in ledger.select("SELECT sender FROM wallets")}
    watched = used - _revoked(ledger)
    return frozenset(tx.hash for tx in chain.foreign if tx.sender in watched)


def _is_paused(ledger: Ledger) -> bool:
    return bool(ledger.select("SELECT 1 FROM wallets WHERE paused_by IS NOT NULL"))


def _unrecorded(ledger: Ledger) -> frozenset[str]:
    found = ledger.select("SELECT tx_hash FROM unrecorded_transactions")
    return frozenset(each for (each,) in found)


def _revoked(ledger: Ledger) -> frozenset[str]:
    found = ledger.select("SELECT address FROM keys WHERE state = 'blocked'")
    return frozenset(address for (address,) in found)


def _unaccepted(ledger: Ledger) -> bool:
    return bool(ledger.select(_UNACCEPTED))
