"""
Why a refund stands where it stands, what blocks it, and what happens next.

Gathers what ledger, chain and rules say of one refund, and decides nothing.  What
cannot be asked at the moment is named in ``unanswered``, and the rest is told.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from signer.amounts import format_units
from signer.chain.chain import Chain
from signer.chain.fees import GWEI, quote, raised
from signer.config.networks import Network
from signer.errors import HotWalletError, RequestError
from signer.model.key import KeyState
from signer.model.refund import (
    Move,
    Refund,
    RefundRequest,
    SignedTransaction,
    Status,
)
from signer.ports import Clock, Fees, KeyStore, NodeStatus, Store
from signer.refunds.policy import admit
from signer.refunds.summary import next_step, summary
from signer.refunds.wallet_reconciliation import WalletReconciler, WalletStatus


T = TypeVar("T")

_MOST_AHEAD = 5


@dataclass(frozen=True, slots=True)
class Bid:
    """
    The last offer for the nonce beside what the chain asks, in wei per gas.

    ``required`` is the least that would replace it (max fee, priority fee); None
    means that it would pass the network's ``cap``.  ``raise_at`` is when that is tried.
    """

    max_fee: int
    priority_fee: int
    base_fee: int | None
    required: tuple[int, int] | None
    cap: int
    raise_at: datetime


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    Everything that is known of one refund.

    ``stopped_at`` is when an operator stopped the network, and ``is_given_up`` whether
    the key of its nonce is blocked.  ``policy`` is None where today's rules would admit
    it, or what they object to.
    ``ahead`` are the first open refunds with lower nonces.  ``next_at`` is None when
    nothing is going to happen, or when only the chain knows when.
    """

    refund: Refund
    summary: str
    next_step: str
    next_at: datetime | None
    policy: str | None
    history: Sequence[Move]
    transactions: Sequence[SignedTransaction]
    stopped_at: datetime | None = None
    is_given_up: bool = False
    standing: WalletStatus | None = None
    ahead: Sequence[Refund] = ()
    nodes: Sequence[NodeStatus] = ()
    head: int | None = None
    confirmations: int | None = None
    bid: Bid | None = None
    unanswered: Mapping[str, str] = field(default_factory=dict)


class Explainer:
    """Explains refunds.  Needs no key: it works while the device is down."""

    def __init__(
        self, store: Store, keys: KeyStore, chains: Mapping[str, Chain], clock: Clock
    ) -> None:
        self._store = store
        self._keys = keys
        self._chains = chains
        self._clock = clock

    def explain(self, refund: Refund) -> Explanation:
        """
        Return what is known of *refund*.

        Raises:
            StoreError: The ledger does not answer, without which nothing is known.
        """
        sent = self._store.transactions(refund.id)
        found = Explanation(
            refund=refund,
            summary="",
            next_step="",
            next_at=None,
            policy=self._objection(refund),
            history=self._store.history(refund.id),
            transactions=sent,
            stopped_at=self._store.stopped(refund.chain_id),
            is_given_up=self._is_given_up(refund),
            ahead=self._ahead(refund),
        )
        chain = self._chains.get(refund.network)
        if chain is not None and not refund.status.is_final:
            found = self._ask_chain(found, chain)
        next_at = None if refund.status.is_final else refund.due_at
        return replace(
            found,
            summary=summary(found),
            next_step=next_step(found),
            next_at=None if refund.status is Status.MINED else next_at,
        )

    def _is_given_up(self, refund: Refund) -> bool:
        ring = self._keys.keys()
        blocked = {key.address for key in ring if key.state is KeyState.BLOCKED}
        return refund.sender in blocked

    def _ahead(self, refund: Refund) -> Sequence[Refund]:
        if refund.sender is None or refund.nonce is None or refund.status.is_final:
            return ()
        return self._store.open_below(
            refund.chain_id, refund.sender, refund.nonce, _MOST_AHEAD
        )

    def _ask_chain(self, found: Explanation, chain: Chain) -> Explanation:
        refund = found.refund
        unanswered: dict[str, str] = {}

        def ask(name: str, question: Callable[[], T]) -> T | None:
            try:
                return question()
            except HotWalletError as e:
                unanswered[name] = e.code
                return None

        sender = self._sender(refund)
        standing = ask("wallet", lambda: self._standing(sender, chain))
        head = ask("head", lambda: chain.client.latest_block().number)
        hashes = [sent.tx_hash for sent in found.transactions]
        nodes: Sequence[NodeStatus] = ()
        if sender is not None:
            nodes = chain.client.node_statuses(sender, hashes)
        bid = None
        if refund.status is Status.BROADCAST and found.transactions:
            fees = ask("fees", chain.client.fees)
            bid = None if fees is None else _bid(found, fees, chain.network)
        return replace(
            found,
            standing=standing,
            nodes=nodes,
            head=head,
            confirmations=chain.network.confirmations,
            bid=bid,
            unanswered=unanswered,
        )

    def _sender(self, refund: Refund) -> str | None:
        """Return its wallet's address: for a queued refund, the one that will pay."""
        active = self._keys.active_key()
        payer = refund.swept_from or (active.address if active else None)
        return refund.sender or payer

    def _standing(self, sender: str | None, chain: Chain) -> WalletStatus | None:
        if sender is None:
            return None
        return WalletReconciler(self._store, self._clock).standing(chain, sender)

    def _objection(self, refund: Refund) -> str | None:
        """Return what today's rules have against *refund*, if anything."""
        if refund.swept_from is not None:
            return None
        networks = {name: chain.network for name, chain in self._chains.items()}
        request = RefundRequest(
            payment_session_id=refund.payment_session_id,
            reference=refund.reference,
            network=refund.network,
            token=refund.token,
            recipient=refund.recipient,
            amount=format_units(refund.amount, refund.decimals),
            reason=refund.reason,
        )
        try:
            admit(
                request,
                refund_id=refund.id,
                client=refund.client,
                idempotency_key=refund.idempotency_key,
                networks=networks,
                wallets=() if refund.sender is None else (refund.sender,),
                now=self._clock(),
            )
        except RequestError as e:
            return str(e)
        return None


def _bid(found: Explanation, fees: Fees, network: Network) -> Bid:
    latest = found.transactions[-1]
    offered = latest.max_fee_per_gas, latest.max_priority_fee_per_gas
    stuck_after = timedelta(seconds=network.stuck_after_seconds)
    return Bid(
        *offered,
        base_fee=fees.base_fee,
        required=raised(*offered, quote(fees, network), network),
        cap=network.max_fee_per_gas_gwei * GWEI,
        raise_at=found.refund.updated_at + stuck_after,
    )
