"""Asks the policy about transactions of refunds, sweeps and no-ops: new and signed."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from itertools import chain, islice

from eth_utils.address import to_checksum_address

from signer.chain.erc20 import encode_transfer
from signer.chain.vault import PAY, decode_pay, item_gas
from signer.config.deny_list import DenyList
from signer.config.networks import Network
from signer.config.tenants import NO_LIMITS, TenantRegistry
from signer.crypto.transactions import AnyTransaction, SignedBytes
from signer.errors import PolicyViolationError, ScreeningUnavailableError
from signer.keys.keyring import KeyRing
from signer.model.approvers import Approvers
from signer.model.audit_record import WORKER
from signer.model.decision import ApprovalNeed, Decision, Verdict
from signer.model.key import Key, KeyState
from signer.model.payment import PaymentPurpose
from signer.model.refund import Refund, RefundRequest
from signer.model.spending_limits import PaymentTotals
from signer.model.transaction import Kind, SignedTransaction, Transaction
from signer.policy.facts import (
    NO_KEYS,
    Caller,
    KnownNetwork,
    OwnKeys,
    Path,
    Surroundings,
    TransactionFacts,
)
from signer.policy.policy import AnyPolicy, Approve
from signer.policy.rules import DENIED, RULES
from signer.policy.transaction_facts import transaction_facts
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.outside_services import Question, ScreeningService
from signer.ports.refund_reports import RefundFilter, read_pages
from signer.ports.refund_store import Permit


Answers = Mapping[Question, bool | None]
"""Whether recipients may be paid; None if there is no answer."""

ApprovePayment = Callable[[Refund, ApprovalNeed], object]
"""Raises an error unless people have approved what the rules demand of a refund."""

_OF_TENANTS = frozenset({Path.REFUND, Path.CALL})
"""The paths on which people can approve what rules demand."""


@dataclass(eq=False, repr=False)
class PaymentPolicy:
    """
    The policy, and what a worker knows about its own transactions.

    *totals* reads what was paid before: without it, rules do not know that, and
    *screening* is asked about each refund.  With *approvers* an approval needs their
    signatures.
    """

    policy: AnyPolicy
    ring: KeyRing
    clock: Clock
    tenants: TenantRegistry
    _: KW_ONLY
    deny_list: DenyList | None = None
    totals: Callable[[Refund], PaymentTotals] | None = None
    screening: ScreeningService | None = None
    approvers: Approvers | None = None

    def __post_init__(self) -> None:
        self._networks: dict[str, tuple[Network, KnownNetwork]] = {}
        self._own: tuple[Sequence[Key], OwnKeys] = ((), NO_KEYS)

    def require(
        self,
        transaction: AnyTransaction,
        digest: bytes,
        paid: Transaction,
        kind: Kind,
        network: Network,
        *,
        approve: ApprovePayment | None = None,
    ) -> Decision:
        """
        Return the decision that *transaction* may be signed for *paid*.

        *digest* is the transaction's.  *approve* is asked about a refund that needs
        approvals; a sweep or a no-op that would need one is refused.  The rules decide
        about each item of a batch by itself; the decision about the first is returned.

        Raises:
            PolicyViolationError: It may not.
            ScreeningUnavailableError: The deny list cannot be read.
            StoreError: The ring could not be read.
        """
        decisions = []
        payments = (None,) if kind is Kind.NOOP else paid.payments
        is_batch = kind is Kind.TRANSFER and paid.vault is not None
        shown = _split(transaction) if is_batch else [transaction]
        known: dict[Caller, Surroundings] = {}  # One for all payments of a tenant.
        for payment, made in zip(payments, shown, strict=True):
            caller = build_caller(payment)
            if caller not in known:
                known[caller] = self._surround(caller, paid, network)
            facts = payment_facts(made, digest, known[caller], payment)
            asked = None
            if payment and approve and facts.caller.path in _OF_TENANTS:
                asked = partial(approve, payment)
            decisions.append(self.policy.require(facts, asked))
        return decisions[0]

    def evaluate(
        self,
        transaction: AnyTransaction,
        digest: bytes,
        paid: Transaction,
        network: Network,
        *,
        is_reserved: bool,
    ) -> Decision:
        """
        Return the decision about what pays *paid*; it permits no signature.

        Unless *is_reserved*, rules also know what was paid until now; but not about a
        call without coin, which may move anything.
        """
        facts = self._facts(transaction, digest, paid, network)
        if not is_reserved:
            facts = self._with_totals(facts, paid.payment)
        return self.policy.evaluate(facts)

    def require_within_totals(
        self,
        transaction: AnyTransaction,
        digest: bytes,
        paid: Transaction,
        network: Network,
        approve: Approve,
    ) -> Permit | None:
        """
        Require that what pays *paid* may follow what was paid until now.

        Return what decides again in the transaction that reserves the nonce, since
        other processes pay meanwhile.  It accepts the same approvals.  Return None if
        no rule reads the totals, or if it is a call without coin.

        Raises:
            PolicyViolationError: It may not.
            ApprovalRequiredError: *approve* raised it.
            StoreError: The totals cannot be read.
        """
        if not self._counts(paid.payment):
            return None
        facts = self._facts(transaction, digest, paid, network)
        until_now = self._with_totals(facts, paid.payment)
        approved = self.policy.require(until_now, approve).need

        def permit(totals: PaymentTotals) -> None:
            decision = self.policy.evaluate(replace(facts, totals=totals))
            need = decision.need
            if need is not None and approved is not None and approved.covers(need):
                return
            if decision.verdict is not Verdict.ALLOW:
                self.policy.count(facts, decision)
                decision.require_allowed()

        return permit

    @property
    def screens(self) -> bool:
        """Whether there is a screening service."""
        return self.screening is not None

    def screen_ahead(self, refunds: Iterable[Refund], tenant: str) -> Answers:
        """
        Ask the screening service about all of *refunds*, several of them at once.

        Return its answers for ``screen``.

        Raises:
            ScreeningUnavailableError: The list cannot be used.
            StoreError: The earlier payments cannot be read.
        """
        denied = self.denied()
        asked = dict.fromkeys(
            _question(refund)
            for refund in refunds
            if refund.recipient.lower() not in denied and self._needs_screening(refund)
        )
        if self.screening is None or not asked:
            return {}
        return self.screening.answers(asked, tenant)

    def screen(self, refund: Refund, answers: Answers | None = None) -> bool:
        """
        Require that the recipient may be paid, before *refund* is accepted.

        Return whether the screening service was asked, which it is before a first
        payment.  Other refunds and the signature are screened by the deny list alone.
        *answers* are those of ``screen_ahead`` about all refunds of a batch.

        Raises:
            PolicyViolationError: ``recipient-denied``: the list or the service has it.
            ScreeningUnavailableError: The list or the service cannot be used.
            StoreError: The earlier payments cannot be read.
        """
        is_denied = refund.recipient.lower() in self.denied()
        question = _question(refund)
        if answers is None:
            is_asked = not is_denied and self._needs_screening(refund)
        else:
            is_asked = not is_denied and question in answers
        if is_asked and self.screening is not None:
            is_denied = not (
                self.screening.allows(*question, refund.tenant)
                if answers is None
                else _require_answer(answers[question])
            )
        if is_denied:
            raise PolicyViolationError(
                f"the recipient must not be paid: {RULES[DENIED]}", rule=DENIED
            )
        return is_asked

    def _needs_screening(self, refund: Refund) -> bool:
        if self.screening is None:
            return False
        read = self.totals
        return read is None or read(refund).is_first_payment

    def denied(self) -> Collection[str]:
        """
        Return the addresses of the deny list, in lower case.

        Raises:
            ScreeningUnavailableError: The list cannot be read.
        """
        return () if self.deny_list is None else self.deny_list.addresses()

    @property
    def active_address(self) -> str | None:
        """The address that new refunds are paid from, at most a minute old."""
        keys = self.ring.cached_keys()
        return next((k.address for k in keys if k.state is KeyState.ACTIVE), None)

    def _counts(self, refund: Refund) -> bool:
        """
        Return whether a rule reads what was paid before *refund*.

        None knows it about a call without coin, which may move anything.
        """
        sends = refund.amount > 0 or refund.purpose is not PaymentPurpose.CALL
        return self.totals is not None and self.policy.reads_totals and sends

    def _with_totals(self, facts: TransactionFacts, refund: Refund) -> TransactionFacts:
        """Return *facts* with what was paid until now, if a rule reads it."""
        if self.totals is None or not self._counts(refund):
            return facts
        return replace(facts, totals=self.totals(refund))

    def _facts(
        self,
        transaction: AnyTransaction,
        digest: bytes,
        paid: Transaction,
        network: Network,
    ) -> TransactionFacts:
        """Return the facts about what makes the payment of *paid*."""
        around = self._surround(build_caller(paid.payment), paid, network)
        return payment_facts(transaction, digest, around, paid.payment)

    def _surround(
        self, caller: Caller, paid: Transaction, network: Network
    ) -> Surroundings:
        is_refund = caller.path is Path.REFUND
        return Surroundings(
            caller,
            paid.sender,
            self.clock(),
            self._known(paid.network, network),
            self._own_keys(caller),
            self.tenants.limits(caller.tenant or "") if is_refund else NO_LIMITS,
            denied=self.denied(),
        )

    def _known(self, name: str, network: Network) -> KnownNetwork:
        known = self._networks.get(name)
        if known is None or known[0] is not network:
            self._networks[name] = known = (network, KnownNetwork.of(name, network))
        return known[1]

    def _own_keys(self, caller: Caller) -> OwnKeys:
        # A sweep pays the key that is active now; others do not pay our own keys.
        is_sweep = caller.path is Path.SWEEP
        read: Callable[[], Sequence[Key]] = (
            self.ring.current_keys if is_sweep else self.ring.cached_keys
        )
        keys, (seen, own) = read(), self._own
        if keys is not seen:
            own = own_keys(keys)
            self._own = (keys, own)
        return own


def _split(transaction: AnyTransaction) -> Sequence[AnyTransaction]:
    """
    Return what the rules decide about, if a vault pays: a transfer for each item.

    It is what would make the same payment alone, with the item's share of the gas.  It
    is read from the bytes, not from the rows.
    """
    token, items = decode_pay(transaction.data)
    gas = item_gas(transaction.gas, len(items))
    of_item = replace(transaction, to=to_checksum_address(token), gas=gas)
    return [
        replace(of_item, data=encode_transfer(each.recipient, each.amount, each.mark))
        for each in items
    ]


def build_caller(payment: Refund | None) -> Caller:
    """Return who asks for *payment*: its tenant or the service, as for a no-op."""
    if payment is None:
        return Caller(Path.NOOP, process=WORKER.name)
    if payment.purpose is PaymentPurpose.SWEEP:
        return Caller(Path.SWEEP, process=WORKER.name)
    return Caller(path_of(payment), tenant=payment.tenant, process=WORKER.name)


def path_of(payment: Refund | RefundRequest) -> Path:
    """Return on which path a tenant asks for *payment*."""
    return Path.REFUND if payment.calldata is None else Path.CALL


def own_keys(ring: Sequence[Key]) -> OwnKeys:
    """Return the addresses of *ring*."""
    active = (key.address for key in ring if key.state is KeyState.ACTIVE)
    return OwnKeys.of((key.address for key in ring), next(active, None))


def payment_facts(
    transaction: AnyTransaction,
    digest: bytes,
    surroundings: Surroundings,
    payment: Refund | None,
) -> TransactionFacts:
    """Return the facts about *transaction*, which pays *payment* or is a no-op."""
    memo = None
    if payment and transaction.data and payment.purpose is not PaymentPurpose.CALL:
        memo = payment.memo
    return transaction_facts(transaction, digest, surroundings, memo)


def _question(refund: Refund) -> Question:
    return refund.recipient, refund.chain_id


def _require_answer(answer: bool | None) -> bool:
    if answer is None:
        raise ScreeningUnavailableError("the screening service gave no answer in time")
    return answer


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A signed transaction of *refund*, and the *decision* about it now."""

    refund: Refund
    transaction: SignedTransaction
    decision: Decision


class PolicyReview:
    """
    Evaluates a policy on stored transactions, with the networks file of today.

    The time is that of the signature.  A sweep pays a key that was active then, so any
    key of the ring counts as active.
    """

    def __init__(
        self, store: Ledger, policy: AnyPolicy, networks: Mapping[str, Network]
    ) -> None:
        self._store = store
        self._policy = policy
        self._networks = {
            name: KnownNetwork.of(name, network) for name, network in networks.items()
        }
        self._own = own_keys(store.keys())

    def review(self, refund: Refund) -> Iterator[Reviewed]:
        """Yield each transaction of *refund*, oldest first."""
        for signed in self._store.transactions(refund.id):
            transaction = SignedBytes.decode(signed.raw).transaction
            digest = transaction.signing_digest()
            is_refund = refund.purpose is PaymentPurpose.REFUND
            if is_refund and transaction.data.startswith(PAY):
                shown = _split(transaction)
                transaction = next(s for s in shown if s.data.endswith(refund.memo))
            recipient = refund.recipient.lower()
            is_own = recipient in self._own.addresses
            surroundings = Surroundings(
                build_caller(None if signed.kind is Kind.NOOP else refund),
                signed.sender,
                signed.signed_at,
                self._networks.get(refund.network),
                OwnKeys(self._own.addresses, recipient) if is_own else self._own,
            )
            facts = payment_facts(transaction, digest, surroundings, refund)
            yield Reviewed(refund, signed, self._policy.evaluate(facts))

    def review_last(self, count: int, page_size: int = 100) -> Iterator[Reviewed]:
        """Yield up to *count* transactions, those of the newest refunds first."""
        pages = read_pages(self._store, RefundFilter(), page_size)
        reviewed = (self.review(refund) for page in pages for refund in page.refunds)
        return islice(chain.from_iterable(reviewed), count)
