"""What a policy decides about transactions that were signed before."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from signer.config.networks import Network
from signer.crypto.transactions import SignedBytes
from signer.model.decision import Decision
from signer.model.refund import Refund
from signer.model.transaction import Kind, SignedTransaction
from signer.policy.facts import KnownNetwork, OwnKeys, Surroundings
from signer.policy.policy import AnyPolicy
from signer.ports.ledger import Ledger
from signer.ports.refund_reports import RefundFilter
from signer.refunds.payment_policy import build_caller, own_keys, payment_facts


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
            recipient = refund.recipient.lower()
            is_own = recipient in self._own.addresses
            surroundings = Surroundings(
                build_caller(None if signed.kind is Kind.NOOP else refund),
                signed.sender,
                signed.signed_at,
                self._networks.get(refund.network),
                OwnKeys(self._own.addresses, recipient) if is_own else self._own,
            )
            digest = transaction.signing_digest()
            facts = payment_facts(transaction, digest, surroundings, refund)
            yield Reviewed(refund, signed, self._policy.evaluate(facts))

    def review_last(self, count: int, page_size: int = 100) -> Iterator[Reviewed]:
        """Yield up to *count* transactions, those of the newest refunds first."""
        reviewed = (self.review(refund) for refund in self._newest(page_size))
        return islice(chain.from_iterable(reviewed), count)

    def _newest(self, page_size: int) -> Iterator[Refund]:
        page = self._store.search_refunds(RefundFilter(), limit=page_size)
        yield from page.refunds
        while page.next_cursor is not None:
            page = self._store.search_refunds(
                RefundFilter(), limit=page_size, cursor=page.next_cursor
            )
            yield from page.refunds
