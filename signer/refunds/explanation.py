"""
Explains one refund: why it has its status and what happens next.

``Explainer`` gathers what ledger, chain and rules report, and decides nothing.  A
question that nodes cannot answer is listed in ``unanswered``; the rest is still
reported.  An ``Explanation`` is a value, with a summary of the facts and the next step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from signer.amounts import format_units
from signer.chain.chain import Chain
from signer.chain.fees import bump_fees, format_gwei, quote_fees
from signer.config.networks import GWEI, Finality
from signer.config.tenants import TenantRegistry
from signer.errors import (
    ChainUnavailableError,
    HotWalletError,
    KeyUnusableError,
    RequestError,
)
from signer.model.approval import ApprovalState
from signer.model.key import is_blocked
from signer.model.refund import AS_REQUESTED, Move, Refund, RefundRequest, Status
from signer.model.transaction import SignedTransaction, Transaction
from signer.ports.chain import NodeStatus
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.payment_checks import admit
from signer.refunds.wallet_reconciliation import WalletReconciler, WalletStatus


ADVICE = {
    "insufficient-funds": "top up the wallet: its token, or the coin that pays for gas",
    "broadcast-rejected": "see what the nodes report: the wallet may lack coin for gas",
    "gas-above-limit": "check the nodes' estimates, or raise the token's max_gas"
    " (docs/how-to/approvals.md)",
    "fees-above-recent": "wait until fees are normal, or raise the network's"
    " max_fee_factor if they are right (docs/how-to/incidents.md)",
    "limit-reached": "wait, or raise the limit (docs/how-to/approvals.md)",
    "too-many-in-flight": "wait for a block; if none has one of the wallet, see why"
    " the first refund ahead is stuck",
    "vault-limit": "see `hotwallet vault status`: wait for the next day (UTC), or let"
    " the guardian raise the caps or add the operator",
    "wallet-paused": "run `hotwallet nonce repair`",
    "signing-stopped": "find out who stopped signing and why (`hotwallet stops`), and"
    " then run `hotwallet resume`",
    "token-stopped": "find out who stopped the token and why (`hotwallet stops`), and"
    " then run `hotwallet resume` with --token",
    "backend-access-denied": "allow the service's role to sign with the key again",
    "key-unusable": "enable the key, or restore the one that the nonce belongs to",
    "key-not-found": "restore the key",
    "key-ambiguous": "remove the other keys with this id from the device",
    "audit-log-unwritable": "free the disk of the worker's log, or restart the worker"
    " with the program that reads its output (docs/how-to/incidents.md)",
    "audit-not-shipped": "let the worker reach AUDIT_SHIP_TO"
    " (docs/how-to/alarms.md, audit-shipping-late)",
    "policy-violation": "compare the networks file with the one in force at acceptance,"
    " and see whether an own rule refuses it (docs/how-to/policy.md)",
    "screening-unavailable": "correct or restore the file DENY_LIST_FILE"
    " (docs/how-to/screening.md)",
    "tenant-blocked": "run `hotwallet tenants unblock` if it may be paid again",
    "approval-required": "an administrator approves or rejects it (`hotwallet approvals"
    " list`): its nonce holds up later ones",
    "configuration": "put the refund's network back into the networks file",
}
"""What an operator can do, by the error code that delays a refund."""

REVOKED_KEY_ADVICE = (
    "do not enable its key, which was revoked: find out whether the refund is paid"
    " (docs/how-to/key-compromise.md)"
)
"""What an operator can do when the key of the refund's nonce was revoked."""

_APPROVED = "An administrator approved it"

_DECISIONS = {
    ApprovalState.WAITING: "It needs the approval of an administrator, who has not"
    " decided yet",
    ApprovalState.APPROVED: _APPROVED,
    ApprovalState.DONE: _APPROVED,
    ApprovalState.REJECTED: "An administrator rejected it",
    ApprovalState.EXPIRED: "It was not approved in time",
}

_WAIT = "nothing; the service tries again"

_WAIT_FOR_OPERATOR = (
    "nothing; an operator of the service must act, and then the refund goes on"
)

TENANT_ADVICE = {
    "fees-above-recent": _WAIT,
    "limit-reached": _WAIT,
    "too-many-in-flight": _WAIT,
    "vault-limit": _WAIT,
    "tenant-blocked": "ask the operator of the service, who blocked your tenant",
}
"""
What a tenant can do, by code.  With other codes of ``ADVICE`` it waits for an operator.
"""


@dataclass(frozen=True, slots=True)
class FeeStatus:
    """
    The fees of the latest transaction beside what the chain asks, in wei per gas.

    ``required`` is the lowest (max fee, priority fee) that would replace the
    transaction; None means that it would exceed the network's ``cap``.  ``raise_at``
    is when the worker raises the fees.
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
    Everything that ledger, chain and rules report about one refund.

    ``policy`` is the objection of today's rules; None means that they would accept the
    refund.  ``stopped_at`` is when signing was stopped, or that of its token, and
    ``is_key_revoked`` whether the key of the refund's nonce is blocked.  ``ahead`` are
    the first open transactions with lower nonces.  ``tenant_blocked_at`` is when an
    operator blocked the refund's tenant.  ``decision`` is the state of the approval
    that the refund awaits, or awaited.  ``in_flight`` is how many transactions of the
    wallet have no receipt, if the network allows no more.  ``batch`` is how many
    refunds its transaction pays, if a vault pays it.  ``unanswered`` has the error
    code of each question that could not be answered.

    With ``for_tenant`` the reader is the refund's tenant, and not an operator: it gets
    no commands, and no id of another tenant's refund.
    """

    refund: Refund
    policy: str | None
    history: Sequence[Move]
    transactions: Sequence[SignedTransaction]
    stopped_at: datetime | None = None
    is_key_revoked: bool = False
    wallet_status: WalletStatus | None = None
    ahead: Sequence[Transaction] = ()
    nodes: Sequence[NodeStatus] = ()
    head: int | None = None
    confirmations: int | None = None
    finality: Finality = "confirmations"
    fees: FeeStatus | None = None
    unanswered: Mapping[str, str] = field(default_factory=dict)
    tenant_blocked_at: datetime | None = None
    decision: ApprovalState = ApprovalState.WAITING
    in_flight: int | None = None
    batch: int | None = None
    for_tenant: bool = False

    @property
    def summary(self) -> str:
        """One sentence: why the refund has its status."""
        refund = self.refund
        sentence = {
            Status.AWAITING_APPROVAL: _DECISIONS[self.decision],
            Status.QUEUED: _describe_queued(self),
            Status.RESERVED: f"It has nonce {refund.nonce} and is not signed yet",
            Status.SIGNED: "It is signed and no node has accepted it yet",
            Status.BROADCAST: _describe_broadcast(self),
            Status.MINED: _describe_mined(self),
            Status.CONFIRMED: f"It was paid in block {refund.block_number}",
            Status.CANCELLED: "It was cancelled before it had a nonce",
            # Another transaction may have paid it: then the detail says so.
            Status.REFUSED: f"It ended without a nonce: {refund.failure_detail}",
            Status.FAILED: "Its nonce is used, and did not pay it:"
            f" {refund.failure_detail}",
        }[refund.status]
        moving = refund.moving
        if self.batch is not None:
            sentence += f", in a batch of {self.batch}"
        if moving.blocked_by is None:
            return f"{sentence}."
        return (
            f"{sentence}; the last {moving.attempts} attempts failed, most recently"
            f" with {moving.blocked_by}."
        )

    @property
    def next_step(self) -> str:
        """One sentence: what happens next, or what the reader must do."""
        refund = self.refund
        if refund.status.is_final:
            return "Nothing."
        if refund.moving.blocked_by is not None:
            return f"To do: {self._advice(refund.moving.blocked_by)}."
        if refund.status is Status.BROADCAST:
            return _describe_rebroadcast(self.fees)
        awaits = refund.status is Status.AWAITING_APPROVAL
        if awaits and self.decision is not ApprovalState.WAITING:
            return "A worker follows the decision."
        return {
            Status.AWAITING_APPROVAL: "An administrator approves or rejects it"
            f"{'' if self.for_tenant else ' (`hotwallet approvals list`)'}. After 24"
            " hours it is refused.",
            Status.QUEUED: "A worker simulates it and assigns its nonce."
            if self.in_flight is None
            else "It gets a nonce after a receipt, and can be cancelled until then.",
            Status.RESERVED: "A worker signs it.",
            Status.SIGNED: "A worker broadcasts it.",
            Status.MINED: "It is confirmed when its block is deep enough.",
        }[refund.status]

    def _advice(self, code: str) -> str:
        if code not in ADVICE:
            return _WAIT
        if self.for_tenant:
            return TENANT_ADVICE.get(code, _WAIT_FOR_OPERATOR)
        if code == KeyUnusableError.code and self.is_key_revoked:
            return REVOKED_KEY_ADVICE
        return ADVICE[code]

    def visible_id(self, other: Transaction) -> str | None:
        """Return the id of a refund that *other* pays; None if none may be shown."""
        shown = (
            each.id
            for each in other.payments
            if not self.for_tenant or each.tenant == self.refund.tenant
        )
        return next(shown, None)

    @property
    def next_at(self) -> datetime | None:
        """When the next step is due; None if another party decides, or it has ended."""
        status = self.refund.status
        has_no_time = status in {Status.AWAITING_APPROVAL, Status.MINED}
        return None if has_no_time or status.is_final else self.refund.moving.due_at


def _describe_queued(found: Explanation) -> str:
    if found.stopped_at is not None:
        since = found.stopped_at.isoformat(timespec="seconds")
        return f"It gets no nonce: signing was stopped at {since}"
    if found.tenant_blocked_at is not None:
        since = found.tenant_blocked_at.isoformat(timespec="seconds")
        return f"It gets no nonce: an operator blocked the tenant at {since}"
    status = found.wallet_status
    if status is not None and status.wallet.is_paused:
        reason = status.wallet.pause_reason
        return f"It gets no nonce: the wallet is paused ({reason})"
    if found.in_flight is not None:
        return f"It has no nonce yet: {found.in_flight} transactions have no receipt"
    return "It has no nonce yet"


def _describe_broadcast(found: Explanation) -> str:
    if found.ahead:
        first = found.ahead[0]
        visible = found.visible_id(first)
        owner = f"refund {visible}" if visible else "another tenant's refund"
        if not first.payments:
            owner = "a filler"
        return (
            f"Its nonce {found.refund.nonce} waits for nonce {first.nonce} of {owner}"
            f" ({first.status})"
        )
    fees = found.fees
    if fees is not None and fees.base_fee is not None and fees.max_fee < fees.base_fee:
        return (
            f"It offers at most {format_gwei(fees.max_fee)} gwei per gas, and the base"
            f" fee is {format_gwei(fees.base_fee)}"
        )
    mined = sum("mined" in node.transactions.values() for node in found.nodes)
    if mined:
        return (
            f"{mined} of {len(found.nodes)} nodes have it in a block, which no worker"
            " has recorded yet"
        )
    known = sum("pending" in node.transactions.values() for node in found.nodes)
    return f"{known} of {len(found.nodes)} nodes have it, and it waits to be mined"


def _describe_mined(found: Explanation) -> str:
    block = found.refund.block_number or 0
    if found.head is None:
        return f"It is in block {block}"
    depth = max(found.head - block + 1, 0)
    text = (
        f"It is in block {block}, with {depth} of {found.confirmations} confirmations"
    )
    if found.finality != "confirmations":
        text += f", and waits until the nodes call the block {found.finality}"
    return text


def _describe_rebroadcast(fees: FeeStatus | None) -> str:
    if fees is None:
        return "A worker broadcasts the same bytes again."
    if fees.required is None:
        return (
            "A worker broadcasts the same bytes again; higher fees would exceed the cap"
            f" of {format_gwei(fees.cap)} gwei."
        )
    return (
        "A worker broadcasts the same bytes again; from"
        f" {fees.raise_at.isoformat(timespec='seconds')} on, with higher fees."
    )


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


@dataclass(eq=False, repr=False)
class Explainer:
    """Explains refunds.  Needs no key, so it works while the device is down."""

    store: Ledger
    chains: Mapping[str, Chain]
    clock: Clock
    tenants: TenantRegistry

    def explain(self, refund: Refund, *, for_tenant: bool = False) -> Explanation:
        """
        Return the explanation of *refund*; raises ``StoreError``.

        With *for_tenant* it is for the refund's tenant; otherwise for operators.
        """
        blocked = self.store.find_block(refund.tenant)
        stop = self.store.find_stop(refund.chain_id, refund.named)
        explanation = Explanation(
            refund=refund,
            policy=self._objection(refund),
            history=self.store.history(refund.id),
            transactions=self.store.transactions(refund.id),
            stopped_at=stop.at if stop else None,
            is_key_revoked=is_blocked(self.store.keys(), refund.sender),
            ahead=self._find_ahead(refund),
            tenant_blocked_at=None if blocked is None else blocked.at,
            decision=self._find_decision(refund),
            batch=None if for_tenant else self._count_batch(refund),
            for_tenant=for_tenant,
        )
        chain = self.chains.get(refund.network)
        if chain is None or refund.status.is_final:
            return explanation
        return self._add_chain_facts(explanation, chain)

    def _find_decision(self, refund: Refund) -> ApprovalState:
        """Return what was decided about *refund*, by proposals that are authentic."""
        now = self.clock()
        found = {
            ApprovalState.EXPIRED if each.is_expired(now) else each.state
            for each in self.store.approvals_of(refund.id)
            if each.is_authentic
        }
        return min(found, key=_DECIDING.index, default=ApprovalState.WAITING)

    def _count_batch(self, refund: Refund) -> int | None:
        own = refund.transaction
        if own is None or own.vault is None:
            return None
        found = self.store.find_transaction(own.chain_id, own.sender, own.nonce)
        return None if found is None else len(found.payment_ids)

    def _find_ahead(self, refund: Refund) -> Sequence[Transaction]:
        if refund.sender is None or refund.nonce is None or refund.status.is_final:
            return ()
        return self.store.open_below(
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

        active = self.store.active_key()
        # The address that pays, or will pay, the refund.
        sender = (
            refund.sender or refund.bound_sender or (active.address if active else "")
        )
        wallet_status: WalletStatus | None = None
        in_flight, window = None, chain.network.window
        if sender and window is not None and refund.status is Status.QUEUED:
            used = self.store.count_in_flight(sender).get(refund.chain_id, 0)
            in_flight = used if used >= window else None
        if sender:
            hashes = [transaction.tx_hash for transaction in transactions]
            nodes = chain.client.node_statuses(sender, hashes)
            reconciler = WalletReconciler(self.store, self.clock)
            wallet_status = ask("wallet", lambda: reconciler.status(chain, sender))
        head = ask("head", lambda: chain.client.latest_block().number)
        fees = None
        if refund.status is Status.BROADCAST and transactions:
            fees = ask("fees", lambda: _fee_status(refund, transactions[-1], chain))
        return replace(
            explanation,
            wallet_status=wallet_status,
            in_flight=in_flight,
            nodes=nodes,
            head=head,
            confirmations=chain.network.confirmations,
            finality=chain.network.finality,
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
                networks={name: each.network for name, each in self.chains.items()},
                wallets=() if refund.sender is None else (refund.sender,),
                now=self.clock(),
                limits=self.tenants.limits(refund.tenant),
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
