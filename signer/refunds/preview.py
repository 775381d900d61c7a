"""
Answers what would happen with a refund that is requested now.

It asks the same functions as the acceptance and the worker, and changes nothing: no
row, no nonce, no limit, no alert, and no audit record.  The audit log has what was
promised, changed and signed, and a preview is none of that; it would only let a caller
who may read fill a log that nothing is ever deleted from.  The log of requests has it.

The answer promises nothing: a moment later, another refund may have used the limit.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from enum import StrEnum

from signer.chain.chain import Chain
from signer.chain.fees import quote_fees
from signer.config.tenants import TenantRegistry
from signer.errors import (
    ApprovalRequiredError,
    ChainError,
    ChainUnavailableError,
    ExecutionRevertedError,
    FeesAboveRecentError,
    GasLimitError,
    HotWalletError,
    InsufficientFundsError,
    InvalidInputError,
    KeyNotFoundError,
    LimitReachedError,
    PolicyViolationError,
    RequestError,
    RowNotAuthenticError,
    SigningStoppedError,
    WalletPausedError,
)
from signer.model.decision import Decision, Verdict
from signer.model.payment import PaymentState
from signer.model.refund import Refund, RefundRequest, Status, new_refund_id
from signer.model.spending_limits import (
    GAS_PER_HOUR,
    Bound,
    Limits,
    LimitScope,
    Spent,
    list_bounds,
)
from signer.ports.chain import Fees
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.acceptance import require_gas
from signer.refunds.gas import bound_gas, build_call, find_holder, require_funds
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.hold_admin import require_tenant_unblocked
from signer.refunds.payment_approvals import decide
from signer.refunds.payment_checks import admit
from signer.refunds.payment_policy import PaymentPolicy
from signer.refunds.vault_limits import VaultLimits


DELAYS: tuple[type[HotWalletError], ...] = (
    SigningStoppedError,
    WalletPausedError,
    LimitReachedError,
    InsufficientFundsError,
    FeesAboveRecentError,
    GasLimitError,
    ChainUnavailableError,
    ChainError,
    KeyNotFoundError,
    RowNotAuthenticError,
)
"""The errors that keep an accepted refund waiting."""


class PreviewOutcome(StrEnum):
    """What would become of the refund."""

    PAY = "pay"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Simulation:
    """
    The transfer as a quorum of nodes executes it now.

    ``reason`` is the token's decoded reason to revert, None if it accepts the transfer.
    ``gas`` is what the transfer uses, None if it reverts.
    """

    reason: str | None
    gas: int | None


@dataclass(frozen=True, slots=True)
class FeeQuote:
    """The first transaction's gas limit, fees in wei per gas, and cost in wei."""

    gas_limit: int
    max_fee: int
    priority_fee: int
    expected: int

    @property
    def at_most(self) -> int:
        """The most that the transaction may cost, in wei."""
        return self.gas_limit * self.max_fee


@dataclass(frozen=True, slots=True)
class LimitCheck:
    """
    A limit, and whether the refund fits in.

    ``left`` is in base units or gas, None if the caller may not know it.
    """

    bound: Bound
    left: int | None
    fits: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """
    What would happen with one refund.

    ``refusal`` is the answer to the request, None if it would be accepted; then
    ``refund`` is what would be stored.  ``delays`` are the codes of what would keep it
    waiting.  ``sender`` is the address that would pay.  ``simulation`` and ``quote``
    are None if the nodes do not answer, or were not asked.  ``decision`` is the
    policy's; None if the request would be refused.
    """

    refusal: RequestError | LimitReachedError | None = None
    refund: Refund | None = None
    delays: Sequence[str] = ()
    sender: str | None = None
    simulation: Simulation | None = None
    quote: FeeQuote | None = None
    limits: Sequence[LimitCheck] = ()
    decision: Decision | None = None

    @property
    def needs_approval(self) -> bool:
        """Whether an administrator must approve the refund."""
        refund = self.refund
        return refund is not None and refund.status is Status.AWAITING_APPROVAL

    @property
    def outcome(self) -> PreviewOutcome:
        """What would become of the refund."""
        if self.refusal is not None:
            return PreviewOutcome.REFUSE
        reverts = self.simulation is not None and self.simulation.reason is not None
        # A transfer that reverts because the wallet is empty waits for a top-up.
        if reverts and InsufficientFundsError.code not in self.delays:
            return PreviewOutcome.REFUSE
        return PreviewOutcome.WAIT if self.delays else PreviewOutcome.PAY


@dataclass(slots=True)
class _Facts:
    """What was found so far."""

    delays: list[str] = field(default_factory=list)
    simulation: Simulation | None = None
    quote: FeeQuote | None = None

    @contextmanager
    def noting_delays(self) -> Iterator[None]:
        """Note an error of ``DELAYS``; what else is known is reported all the same."""
        try:
            yield
        except DELAYS as e:
            self.note(e.code)

    def note(self, code: str) -> None:
        if code not in self.delays:
            self.delays.append(code)


@dataclass(eq=False, repr=False)
class Previewer:
    """Makes previews.  Needs no key."""

    store: Ledger
    chains: Mapping[str, Chain]
    _: KW_ONLY
    wallets: Callable[[], Collection[str]]
    clock: Clock
    tenants: TenantRegistry
    gas_price_check: GasPriceCheck
    policy: PaymentPolicy

    def preview(self, tenant: str, request: RefundRequest) -> Preview:
        """
        Return what would happen with *request* of *tenant*.

        Rates, and the number of open refunds, are not looked at: they change with each
        request.

        Raises:
            InvalidInputError: Amount or recipient is malformed, or the recipient may
                not be paid.
            ScreeningUnavailableError: As ``PaymentPolicy.screen``.
            StoreError: The database does not answer; or another program changed the
                tenant's block.
        """
        try:
            refund = self._admit(tenant, request)
        except InvalidInputError:
            raise  # It is no request for a refund.
        except (RequestError, LimitReachedError) as e:
            return Preview(refusal=e)
        chain, facts = self.chains[refund.network], _Facts()
        refund, decision = self._decide(refund, chain, facts)
        with facts.noting_delays():
            stop = self.store.find_stop(refund.chain_id, refund.named)
            if stop is not None:
                raise stop.error()
        active = self.store.active_key()
        if active is None:
            facts.note(KeyNotFoundError.code)
        else:
            with facts.noting_delays():
                self._ask_nodes(refund, chain, active.address, facts)
        limits = self._check_limits(refund, chain, facts.quote)
        if not all(limit.fits for limit in limits):
            facts.note(LimitReachedError.code)
        return Preview(
            refund=refund,
            delays=facts.delays,
            sender=None if active is None else active.address,
            simulation=facts.simulation,
            quote=facts.quote,
            limits=limits,
            decision=decision,
        )

    def _decide(
        self, refund: Refund, chain: Chain, facts: _Facts
    ) -> tuple[Refund, Decision]:
        """Return the refund as it would be stored, and the policy's decision."""
        decision = decide(self.policy, refund, chain.network)
        if decision.need is not None:
            refund = replace(refund, state=PaymentState.AWAITING_APPROVAL)
        elif decision.verdict is not Verdict.ALLOW:
            facts.note(PolicyViolationError.code)
        if refund.state is PaymentState.AWAITING_APPROVAL:
            facts.note(ApprovalRequiredError.code)
        return refund, decision

    def _admit(self, tenant: str, request: RefundRequest) -> Refund:
        """Return the refund that would be stored; raises ``RequestError``."""
        require_tenant_unblocked(self.store, tenant)
        now = self.clock()
        refund_id = new_refund_id(now)
        refund = admit(
            request,
            refund_id=refund_id,
            tenant=tenant,
            idempotency_key=refund_id,  # No request has it: a new one.
            networks={name: each.network for name, each in self.chains.items()},
            wallets=self.wallets(),
            now=now,
            limits=self.tenants.limits(tenant),
        )
        require_gas(self.store, refund, self.tenants.limits(tenant))
        self.policy.screen(refund)
        self.store.find_earlier(refund, self.tenants.owners(tenant))
        return refund

    def _ask_nodes(
        self, refund: Refund, chain: Chain, sender: str, facts: _Facts
    ) -> None:
        """Simulate the transfer, and quote its fee; raises an error of ``DELAYS``."""
        holder = find_holder(refund, chain, sender)
        preflight = chain.client.preflight(sender, [build_call(refund, holder)])
        with facts.noting_delays():
            self._require_wallet(chain, sender, preflight.pending_count)
        with facts.noting_delays():
            limits = VaultLimits(self.store, chain, sender)
            limits.require(refund)
        (estimate,) = preflight.estimates
        if isinstance(estimate, ExecutionRevertedError):
            facts.simulation = Simulation(str(estimate), None)
            require_funds(refund, chain, holder)
            return
        if isinstance(estimate, ChainError):
            raise estimate
        facts.simulation = Simulation(None, estimate)
        gas = bound_gas(estimate, refund, chain)
        facts.quote = _quote(preflight.fees, chain, estimate, gas)
        max_fee = facts.quote.max_fee
        if self.gas_price_check.find_exceeded(chain, sender, max_fee) is not None:
            facts.note(FeesAboveRecentError.code)
        if chain.client.balance(sender) < facts.quote.at_most:
            facts.note(InsufficientFundsError.code)

    def _require_wallet(self, chain: Chain, sender: str, counted: int) -> None:
        """Require that the wallet would assign a nonce; it may not be opened yet."""
        wallet = self.store.wallet(chain.network.chain_id, sender)
        if wallet is None:
            return
        if wallet.is_paused:
            raise wallet.error()
        if counted > wallet.next_nonce:
            raise WalletPausedError("the chain has nonces that the ledger lacks")

    def _check_limits(
        self, refund: Refund, chain: Chain, quote: FeeQuote | None
    ) -> Sequence[LimitCheck]:
        tenant = self.tenants.limits(refund.tenant)
        network = chain.network
        limits = Limits.for_tenant(tenant, refund.network, network, refund.token)
        bounds = list_bounds(limits)
        if not bounds:
            return ()
        everyone, own = self.store.spent(refund)
        gas = 0 if quote is None else quote.gas_limit
        return [
            self._check_limit(
                bound,
                own if bound.scope is LimitScope.TENANT else everyone,
                gas if bound.name == GAS_PER_HOUR else refund.amount,
            )
            for bound in bounds
        ]

    def _check_limit(self, bound: Bound, spent: Spent, added: int) -> LimitCheck:
        # A limit may have been lowered after it was used up.
        left = max(0, bound.limit - spent.counted(bound.name))
        check = LimitCheck(bound, left, added <= left)
        # What is left of a shared limit shows what other tenants pay, and to whom.
        if bound.scope is LimitScope.SERVICE and self.tenants.has_several:
            return replace(check, left=None)
        return check


def _quote(fees: Fees, chain: Chain, estimate: int, gas: int) -> FeeQuote:
    """Return the fee of the first transaction, which may use *estimate* gas."""
    max_fee, priority_fee = quote_fees(fees, chain.network)
    price = max_fee if fees.base_fee is None else fees.base_fee + priority_fee
    return FeeQuote(gas, max_fee, priority_fee, estimate * min(price, max_fee))
