"""
Explains one refund: why it has its status and what happens next.

Gathers what ledger, chain and rules report, and decides nothing.  A question that
nodes cannot answer is listed in ``unanswered``; the rest is still reported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from signer.amounts import format_units
from signer.chain.chain import Chain
from signer.chain.fees import bump_fees, quote_fees
from signer.config.networks import GWEI
from signer.config.tenants import TenantRegistry
from signer.errors import ChainUnavailableError, HotWalletError, RequestError
from signer.model.approval import ApprovalState
from signer.model.key import is_blocked
from signer.model.refund import AS_REQUESTED, Refund, RefundRequest, Status
from signer.model.transaction import SignedTransaction, Transaction
from signer.ports.chain import NodeStatus
from signer.ports.clock import Clock
from signer.ports.key_store import KeyStore
from signer.ports.ledger import Ledger
from signer.refunds.explanation import Explanation, FeeStatus
from signer.refunds.payment_checks import admit
from signer.refunds.wallet_reconciliation import WalletReconciler, WalletStatus


T = TypeVar("T")

_MAX_AHEAD = 5

_DECIDING = (
    ApprovalState.REJECTED,
    ApprovalState.WAITING,
    ApprovalState.APPROVED,
    ApprovalState.DONE,
    ApprovalState.EXPIRED,
)
"""What counts first, if a refund has several proposals."""


class Explainer:
    """Explains refunds.  Needs no key, so it works while the device is down."""

    def __init__(
        self,
        store: Ledger,
        keys: KeyStore,
        chains: Mapping[str, Chain],
        clock: Clock,
        tenants: TenantRegistry,
    ) -> None:
        self._store = store
        self._keys = keys
        self._chains = chains
        self._clock = clock
        self._tenants = tenants

    def explain(self, refund: Refund, *, for_tenant: bool = False) -> Explanation:
        """
        Return the explanation of *refund*; raises ``StoreError``.

        With *for_tenant* it is for the refund's tenant; otherwise for operators.
        """
        blocked = self._store.find_block(refund.tenant)
        stop = self._store.find_stop(refund.chain_id, refund.named)
        explanation = Explanation(
            refund=refund,
            policy=self._objection(refund),
            history=self._store.history(refund.id),
            transactions=self._store.transactions(refund.id),
            stopped_at=stop.at if stop else None,
            is_key_revoked=is_blocked(self._keys.keys(), refund.sender),
            ahead=self._find_ahead(refund),
            tenant_blocked_at=None if blocked is None else blocked.at,
            decision=self._find_decision(refund),
            for_tenant=for_tenant,
        )
        chain = self._chains.get(refund.network)
        if chain is None or refund.status.is_final:
            return explanation
        return self._add_chain_facts(explanation, chain)

    def _find_decision(self, refund: Refund) -> ApprovalState:
        """Return what was decided about *refund*, by proposals that are authentic."""
        now = self._clock()
        found = {
            ApprovalState.EXPIRED if each.is_expired(now) else each.state
            for each in self._store.approvals_of(refund.id)
            if each.is_authentic
        }
        return min(found, key=_DECIDING.index, default=ApprovalState.WAITING)

    def _find_ahead(self, refund: Refund) -> Sequence[Transaction]:
        if refund.sender is None or refund.nonce is None or refund.status.is_final:
            return ()
        return self._store.open_below(
            refund.chain_id, refund.sender, refund.nonce, _MAX_AHEAD
        )

    def _add_chain_facts(self, explanation: Explanation, chain: Chain) -> Explanation:
        refund, transactions = explanation.refund, explanation.transactions
        unanswered: dict[str, str] = {}
        nodes: Sequence[NodeStatus] = ()

        def ask(name: str, question: Callable[[], T]) -> T | None:
            try:
                if nodes and all(node.error for node in nodes):
                    # Each further question would wait for the same nodes again.
                    raise ChainUnavailableError("no node responded")
                return question()
            except HotWalletError as e:
                unanswered[name] = e.code
                return None

        active = self._keys.active_key()
        # The address that pays, or will pay, the refund.
        sender = (
            refund.sender or refund.bound_sender or (active.address if active else "")
        )
        wallet_status: WalletStatus | None = None
        if sender:
            hashes = [transaction.tx_hash for transaction in transactions]
            nodes = chain.client.node_statuses(sender, hashes)
            reconciler = WalletReconciler(self._store, self._clock)
            wallet_status = ask("wallet", lambda: reconciler.status(chain, sender))
        head = ask("head", lambda: chain.client.latest_block().number)
        fees = None
        if refund.status is Status.BROADCAST and transactions:
            fees = ask("fees", lambda: _fee_status(refund, transactions[-1], chain))
        return replace(
            explanation,
            wallet_status=wallet_status,
            nodes=nodes,
            head=head,
            confirmations=chain.network.confirmations,
            fees=fees,
            unanswered=unanswered,
        )

    def _objection(self, refund: Refund) -> str | None:
        """Return why today's rules would refuse *refund*; None if they would not."""
        if refund.bound_sender is not None:
            return None
        request = RefundRequest(
            **{name: getattr(refund, name) for name in AS_REQUESTED},
            amount=format_units(refund.amount, refund.decimals),
            calldata=None if refund.calldata is None else f"0x{refund.calldata.hex()}",
        )
        try:
            admit(
                request,
                refund_id=refund.id,
                tenant=refund.tenant,
                idempotency_key=refund.idempotency_key,
                networks={name: each.network for name, each in self._chains.items()},
                wallets=() if refund.sender is None else (refund.sender,),
                now=self._clock(),
                limits=self._tenants.limits(refund.tenant),
            )
        except RequestError as e:
            return str(e)
        return None


def _fee_status(refund: Refund, latest: SignedTransaction, chain: Chain) -> FeeStatus:
    fees, network = chain.client.fees(), chain.network
    offered = latest.max_fee_per_gas, latest.max_priority_fee_per_gas
    stuck_after = timedelta(seconds=network.stuck_after_seconds)
    return FeeStatus(
        *offered,
        base_fee=fees.base_fee,
        required=bump_fees(*offered, quote_fees(fees, network), network),
        cap=network.max_fee_per_gas_gwei * GWEI,
        raise_at=refund.moving.updated_at + stuck_after,
    )
