"""
The life of a refund, from its acceptance to its confirmation.

1. *Accept*: the API stores the refund (``acceptance``), perhaps with a proposal for an
   administrator.  From here on only workers move it.
2. *Approve*: people decide about those that need it (``follow_decisions``).
3. *Reserve*: a refund gets its place in a transaction of the active key, under the
   limits, with the audit record of the intent to sign (``queued_refunds``).
4. *Sign*, *record*: the device signs, and the bytes are stored before any node sees
   them (``first_signatures``, ``attempts``).
5. *Broadcast*: the stored bytes go to the nodes (``broadcasts``).
6. *Follow*: what is not mined in time is sent again or replaced, under the same nonce
   (``pending_transactions``).
7. *Confirm*: the receipt at depth decides (``confirmations``).

A step up to the reservation takes refunds, and a later one transactions, each with the
payments that it makes; they end with it.  It takes any number of them.  It reads what
it needs once for all, does one thing to the outside world, and commits one
compare-and-set for each, in one commit.  A process may die between any two lines, and
any number of processes may take the same step: the store decides whose step counts.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.errors import (
    AuditLogUnwritableError,
    BackendUnavailableError,
    ChainUnavailableError,
    ConfigurationError,
    HotWalletError,
    Refusal,
    RowNotAuthenticError,
    TooManyInFlightError,
)
from signer.model.approval import ApprovalState
from signer.model.decision import ApprovalNeed
from signer.model.payment import PaymentState
from signer.model.refund import UNSIGNED, Refund
from signer.model.transaction import Transaction, TransactionKind, TransactionStatus
from signer.ports.refund_store import Change
from signer.refunds import (
    broadcasts,
    first_signatures,
    pending_transactions,
    queued_refunds,
)
from signer.refunds.payment_approvals import find_objection
from signer.refunds.payment_checks import find_violation
from signer.refunds.payment_parts import PaymentParts
from signer.refunds.saved_steps import (
    MAX_RETRY_DELAY,
    Moving,
    Outcome,
    Outcomes,
    delay_after,
)


MAX_OUTAGE_DELAY = timedelta(seconds=5)
"""The longest delay if nodes, device or log are down, so that an outage ends soon."""


_T = TypeVar("_T", Refund, Transaction)

_Step = Callable[[PaymentParts, Sequence[_T], Chain, Outcomes], None]


def follow_decisions(
    parts: PaymentParts, refunds: Sequence[Refund], chain: Chain, outcomes: Outcomes
) -> None:
    """
    Queue or end each of *refunds*, which are of one chain, or leave it waiting.

    Raises an error if the step failed for every refund.
    """
    endings: list[queued_refunds.Ending] = []
    for refund in refunds:
        with outcomes.capture(refund):
            if refund.cancel_requested_at is not None:
                parts.approvals.withdraw(refund)
                endings.append((refund, None))
                continue
            need = parts.approvals.find_need(refund, chain.network)
            # What waits is decided by people, also if nothing demands it now.
            approval = parts.approvals.settle(refund, need or ApprovalNeed())
            objection = find_objection(approval)
            if objection is not None:
                endings.append((refund, objection))
            elif approval.state is ApprovalState.DONE:
                outcomes[refund.id] = parts.saved_steps.move(
                    refund, PaymentState.QUEUED
                )
            else:
                outcomes[refund.id] = refund
    queued_refunds.end_all(parts, endings, chain, outcomes)


_PAYMENT_STEPS: Mapping[PaymentState, _Step[Refund]] = {
    PaymentState.AWAITING_APPROVAL: follow_decisions,
    PaymentState.QUEUED: queued_refunds.reserve,
}

_TRANSACTION_STEPS: Mapping[TransactionStatus, _Step[Transaction]] = {
    TransactionStatus.RESERVED: first_signatures.sign,
    TransactionStatus.SIGNED: broadcasts.send,
    TransactionStatus.BROADCAST: pending_transactions.follow,
}


class Lifecycle:
    """Takes refunds, and the transactions that pay them, to their next status."""

    def __init__(self, parts: PaymentParts, chains: Mapping[str, Chain]) -> None:
        self.parts = parts
        self._chains = chains

    def step_all(self, moving: Sequence[Moving]) -> Sequence[Outcome]:
        """
        Take the next step of each of *moving*, which are different ones.

        A status is unchanged if it has to wait.  What today's networks file does not
        allow waits, in every status, until the file or the row is right again.

        Returns:
            For each, what it is after its step; or the error of the step, after which
            it has the same status:

            * ``RowNotAuthenticError``: Another program changed what is paid, or its
              tenant, which signs, did not request it.
            * ``StaleStateError``: Another process changed it.
            * Any other error.
        """
        outcomes = Outcomes()
        queues: dict[tuple[PaymentState, str, str | None], list[Refund]]
        flights: dict[tuple[TransactionStatus, str], list[Transaction]]
        queues, flights = defaultdict(list), defaultdict(list)
        for each in moving:
            with outcomes.capture(each):
                if isinstance(each, Refund) and each.state in _PAYMENT_STEPS:
                    self._require_payable(each)
                    queues[each.state, each.network, each.bound_sender].append(each)
                elif (
                    isinstance(each, Transaction) and each.status in _TRANSACTION_STEPS
                ):
                    self._require_movable(each)
                    flights[each.status, each.network].append(each)
                else:
                    outcomes[each.id] = each
        for (status, network), flight in flights.items():
            self._step_group(
                _TRANSACTION_STEPS[status],
                flight,
                self._chains[network],
                outcomes,
                is_signing=status is TransactionStatus.RESERVED,
            )
        for (state, network, _), queue in queues.items():
            step, chain = _PAYMENT_STEPS[state], self._chains[network]
            self._step_group(step, queue, chain, outcomes)
        return [outcomes[each.id] for each in moving]

    def postpone(
        self, failed: Sequence[tuple[Moving, HotWalletError]]
    ) -> Sequence[HotWalletError | None]:
        """
        Release claims to other workers, each with a delay after the error of its step.

        The delay doubles with each failure, up to ``MAX_RETRY_DELAY``, or up to
        ``MAX_OUTAGE_DELAY``.  One stays claimed until the claim expires if its result,
        which is that of ``RefundStore.save_all``, is an error.
        """
        changes = []
        for moving, error in failed:
            delay = delay_after(moving.attempts, _longest_delay(error))
            after = moving.with_due_at(
                self.parts.clock() + delay,
                attempts=moving.attempts + 1,
                blocked_by=error.code,
            )
            changes.append(Change(moving, after))
        return self.parts.store.save_all(changes)

    def _step_group(
        self,
        step: _Step[_T],
        group: Sequence[_T],
        chain: Chain,
        outcomes: Outcomes,
        *,
        is_signing: bool = False,
    ) -> None:
        try:
            step(self.parts, group, chain, outcomes)
        except Exception as e:  # noqa: BLE001 - it is the outcome of the others.
            others = [each for each in group if each.id not in outcomes]
            is_bug = not isinstance(e, HotWalletError)
            if is_bug and len(group) > 1 and not is_signing:
                # A bug about one must not stop the others, nor sign them twice.
                for each in others:
                    self._step_group(step, [each], chain, outcomes)
            else:
                outcomes.update(dict.fromkeys((each.id for each in others), e))

    def _require_payable(self, refund: Refund) -> None:
        """Require that the row is authentic, and that the configuration allows it."""
        self.parts.store.require_authentic(refund)
        network = self._network(refund)
        if refund.state is PaymentState.AWAITING_APPROVAL:
            return  # Only a queued refund is paid, which is checked then.
        if refund.cancel_requested_at is not None:
            return  # It will be cancelled.
        self.parts.signed_requests.require(refund)
        violation = find_violation(refund, network)
        if violation is not None:
            raise violation

    def _require_movable(self, transaction: Transaction) -> None:
        """Require the same of a transaction, and of each refund that it pays."""
        self.parts.store.require_authentic(transaction)
        network = self._network(transaction)
        for payment in transaction.payments:
            if payment.state is not PaymentState.ASSIGNED:
                raise RowNotAuthenticError(
                    f"another program ended the refund {payment.id}, which a"
                    " transaction still pays"
                )
            if transaction.kind is TransactionKind.BATCH:
                continue  # One refund must not hold up the others: see the signature.
            self.parts.signed_requests.require(payment)
            violation = find_violation(payment, network)
            # A no-op, which has the reason of the failure, pays nothing.
            is_noop = payment.failure_code and payment.status not in UNSIGNED
            if violation is not None and not is_noop:
                raise violation

    def _network(self, moving: Moving) -> Network:
        chain = self._chains.get(moving.network)
        if chain is None:
            detail = f"a refund needs the network {moving.network}: put it back"
            raise ConfigurationError(Refusal("networks-misconfigured", detail))
        return chain.network


def _longest_delay(error: HotWalletError) -> timedelta:
    is_outage = isinstance(
        error,
        ChainUnavailableError
        | BackendUnavailableError
        | AuditLogUnwritableError
        | TooManyInFlightError,
    )
    return MAX_OUTAGE_DELAY if is_outage else MAX_RETRY_DELAY
