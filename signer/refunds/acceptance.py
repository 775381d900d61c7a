"""Accepts requests for refunds: checks each one, and stores it at most once."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import TypeGuard

from signer.alerts import Alerts
from signer.audit.actions import NOT_AUDITED, AuditAction
from signer.audit.log import AuditLog
from signer.config.networks import Network
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import (
    HotWalletError,
    LimitReachedError,
    PolicyViolationError,
    RequestError,
    ScreeningUnavailableError,
    StoreError,
    StoreUnavailableError,
    TenantBlockedError,
)
from signer.model.acceptance import NO_SIGNATURE, Acceptance, SignedRequest
from signer.model.audit_record import Actor, Operation
from signer.model.decision import ApprovalNeed, Verdict
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import Refund, RefundRequest, new_refund_id
from signer.policy.rules import DENIED
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.meter import NO_METER, Meter
from signer.refunds.hold_admin import require_tenant_unblocked
from signer.refunds.payment_approvals import PaymentApprovals, decide
from signer.refunds.payment_checks import admit
from signer.refunds.payment_policy import Answers, PaymentPolicy, path_of
from signer.refunds.signed_requests import SignedRequests
from signer.refunds.transaction_signer import describe_acceptance


TRANSACTION_SIZE = 100
"""How many refunds one transaction stores: it keeps other writers waiting."""


DENIALS = 60
"""How many records of denied recipients a tenant causes in a minute."""

LEAST_GAS = 65_000
"""What a transfer of a stablecoin reserves: with less, no refund gets its nonce."""


@dataclass(frozen=True, slots=True)
class SubmittedRequest:
    """A request for a refund; *signed* is the request as it arrived."""

    idempotency_key: str
    request: RefundRequest
    signed: SignedRequest = NO_SIGNATURE


@dataclass(frozen=True, slots=True)
class AcceptedRefund:
    """A refund as it is now, and whether this request created it."""

    refund: Refund
    created: bool


SubmissionResult = AcceptedRefund | HotWalletError
"""What became of one request: its refund, or why there is none."""


AcceptResult = tuple[Refund, bool] | HotWalletError


@dataclass(frozen=True, slots=True)
class _Terms:
    """What is the same for all requests of a batch."""

    tenant: str
    owners: Collection[str]
    limits: Tenant
    wallets: Collection[str]
    actor: Actor
    now: datetime
    screened: Answers | None = None
    # The networks on which the gas of this hour is not used up.
    gas_networks: set[str] = field(default_factory=set)


def require_gas(store: Ledger, refund: Refund, limits: Tenant) -> None:
    """
    Require that the tenant's gas of this hour, which *limits* bound, is not used up.

    A refund of one unit costs the same gas as any other.  A limit that tenants share
    refuses none: the refund waits.

    Raises:
        LimitReachedError: It is used up.
    """
    limit = limits.gas_limit(refund.network)
    if limit is None:
        return
    _, own = store.spent(refund)
    if own.gas + LEAST_GAS > limit:
        raise LimitReachedError(
            f"the tenant's gas_per_hour on {refund.network}, {limit} gas, is used up:"
            " nothing was accepted; repeat the request in the next clock hour"
        )


@dataclass(eq=False, repr=False)
class RefundAcceptor:
    """
    Stores the refunds that the policy admits.

    One refused refund does not affect the others.
    """

    store: Ledger
    networks: Mapping[str, Network]
    _: KW_ONLY
    audit: AuditLog
    wallets: Callable[[], Collection[str]]
    clock: Clock
    tenants: TenantRegistry
    alerts: Alerts
    policy: PaymentPolicy
    meter: Meter = NO_METER

    def __post_init__(self) -> None:
        self._approvals = PaymentApprovals(
            self.store, self.audit, self.alerts, self.clock, self.policy
        )
        self._signed_requests = SignedRequests(self.store, self.tenants)

    def accept_all(
        self,
        tenant: str,
        requests: Sequence[SubmittedRequest],
        actor: Actor,
    ) -> Sequence[SubmissionResult]:
        """
        Accept *requests* of *tenant*; return what became of each, in their order.

        An error of one request does not affect the others.

        Raises:
            TenantBlockedError: An operator blocked the tenant; nothing was stored.
            StoreError: The database accepted none of the refunds that the policy
                admits, or does not answer.
        """
        terms = _Terms(
            tenant=tenant,
            owners=self.tenants.owners(tenant),
            limits=self.tenants.limits(tenant),
            wallets=self.wallets(),
            actor=actor,
            now=self.clock(),
        )
        terms = self._screen_ahead(requests, terms)
        prepared = [self._prepare(each, terms) for each in requests]
        new = [each for each in prepared if isinstance(each, Acceptance)]
        stored = self._store_all(new)
        if new and _all_failed(stored):
            raise stored[0]
        self._log_created(new, stored)
        results = iter(stored)
        return [
            _result(next(results)) if isinstance(each, Acceptance) else each
            for each in prepared
        ]

    def _prepare(
        self, new: SubmittedRequest, terms: _Terms
    ) -> Acceptance | SubmissionResult:
        try:
            return self._admit(new, terms)
        except (TenantBlockedError, StoreUnavailableError):
            raise  # The block or failure applies to every request of the batch.
        except HotWalletError as e:
            return e

    def _store_all(self, new: Sequence[Acceptance]) -> Sequence[AcceptResult]:
        """Store each of *new*, as ``accept_all`` does; a failure ends it."""
        stored: list[AcceptResult] = []
        for start in range(0, len(new), TRANSACTION_SIZE):
            part = self.store.accept_all(new[start : start + TRANSACTION_SIZE])
            stored += part
            if _all_failed(part):
                # The next part would wait for the database again.
                stored += [part[0]] * (len(new) - len(stored))
                break
        return stored

    def _log_created(
        self, new: Sequence[Acceptance], stored: Sequence[AcceptResult]
    ) -> None:
        """Log the records that were committed with a new refund."""
        created = [
            each
            for each, result in zip(new, stored, strict=True)
            if isinstance(result, tuple) and result[1]
        ]
        for each in created:
            self.audit.log(*filter(None, [each.record]))
            if each.proposed is not None:
                self._approvals.announce(each.proposed, each.refund.tenant)
                self._count(each.proposed.approval.need or ApprovalNeed(), each.refund)

    def _count(self, need: ApprovalNeed, refund: Refund) -> None:
        self.meter.decided(path_of(refund), Verdict.NEEDS_APPROVAL, need.rule)

    def _admit(
        self, new: SubmittedRequest, terms: _Terms
    ) -> Acceptance | AcceptedRefund:
        key, request = new.idempotency_key, new.request
        proof = self._signed_requests.verify(terms.tenant, key, new.signed, terms.now)
        try:
            refund = self._draft(new, terms)
            is_screened = self._screen(refund, terms)
        except (RequestError, LimitReachedError) as e:
            require_tenant_unblocked(self.store, terms.tenant)
            # An accepted refund stays accepted when the rules change.
            for owner in terms.owners:
                earlier = self.store.find(owner, key)
                if earlier and earlier.fingerprint == request.fingerprint():
                    return AcceptedRefund(earlier, created=False)
            self._record_denied(e, request, terms)
            raise
        # With one owner, acceptance finds an earlier refund by itself.
        if len(terms.owners) > 1:
            require_tenant_unblocked(self.store, terms.tenant)
            earlier = self.store.find_earlier(refund, terms.owners)
            if earlier is not None:
                return AcceptedRefund(earlier, created=False)
        need = self._approvals.find_need(refund, self.networks[refund.network])
        if need is not None:
            refund = replace(refund, state=PaymentState.AWAITING_APPROVAL)
        record = self.audit.result(
            AuditAction.REFUND_ACCEPT,
            Operation.REFUND,
            terms.actor,
            **describe_acceptance(refund),
            **({"screening": "allowed"} if is_screened else {}),
        )
        proposed = None
        if need is not None:
            proposed = self._approvals.propose(refund, terms.actor, terms.now, need)
        max_open = terms.limits.max_open_refunds
        return Acceptance(refund, record, max_open, proof, proposed)

    def _draft(self, new: SubmittedRequest, terms: _Terms) -> Refund:
        """Return the refund that *new* asks for; raises as ``admit``."""
        return admit(
            new.request,
            refund_id=new_refund_id(terms.now),
            tenant=terms.tenant,
            idempotency_key=new.idempotency_key,
            networks=self.networks,
            wallets=terms.wallets,
            now=terms.now,
            limits=terms.limits,
        )

    def _screen_ahead(
        self, requests: Sequence[SubmittedRequest], terms: _Terms
    ) -> _Terms:
        """Return *terms* with what the screening service answers about a batch."""
        if not self.policy.screens or len(requests) == 1:
            return terms
        drafts = []
        for each in requests:
            with suppress(RequestError):  # Its own answer will say why.
                drafts.append(self._draft(each, terms))
        try:
            answers = self.policy.screen_ahead(drafts, terms.tenant)
        except ScreeningUnavailableError:
            return terms  # The list cannot be read, which each answer will say.
        return replace(terms, screened=answers)

    def _screen(self, refund: Refund, terms: _Terms) -> bool:
        """Return whether the screening service was asked, after all other rules."""
        if refund.network not in terms.gas_networks:
            require_gas(self.store, refund, terms.limits)
            terms.gas_networks.add(refund.network)
        if refund.purpose is PaymentPurpose.CALL:
            self._require_permitted(refund)
        return self.policy.screen(refund, terms.screened)

    def _require_permitted(self, call: Refund) -> None:
        """
        Require that the policy permits *call*, if only with approvals.

        Raises:
            PolicyViolationError: It does not; by default, it permits none.
        """
        decision = decide(self.policy, call, self.networks[call.network])
        if decision.verdict is Verdict.REFUSE:
            raise PolicyViolationError(decision.message, rule=decision.rule)

    def _record_denied(
        self, error: HotWalletError, request: RefundRequest, terms: _Terms
    ) -> None:
        """Audit *error* if the recipient of *request* is denied, up to a bound."""
        if isinstance(error, PolicyViolationError) and error.rule == DENIED:
            # No record can be deleted, so a tenant must not decide how many there are.
            name = sha256(terms.tenant.encode()).hexdigest()[:32]
            minute = int(terms.now.timestamp()) // 60
            denied = self.store.count(f"denied:{name}", minute)
            if denied > DENIALS:
                return
            record = self.audit.result(
                AuditAction.REFUND_ACCEPT,
                Operation.REFUND,
                terms.actor,
                outcome=DENIED if denied < DENIALS else NOT_AUDITED,
                tenant=terms.tenant,
                network=request.network,
                token_symbol=request.token,
                recipient=request.recipient,
                amount=request.amount,
                reference=request.reference,
            )
            self.audit.write(record)


def _result(stored: AcceptResult) -> SubmissionResult:
    return AcceptedRefund(*stored) if isinstance(stored, tuple) else stored


def _all_failed(
    stored: Sequence[AcceptResult],
) -> TypeGuard[Sequence[StoreError | TenantBlockedError]]:
    """Return whether the database or a block kept all refunds from being stored."""
    return all(isinstance(each, StoreError | TenantBlockedError) for each in stored)
