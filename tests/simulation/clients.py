"""Clients that request refunds, repeat requests, and keep the answers."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from functools import cache

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from signer.errors import ConflictError, HotWalletError
from signer.model.audit_record import Actor
from signer.model.refund import Refund, RefundRequest, Status
from signer.refunds.service import RefundService
from tests.simulation.scheduler import Scheduler
from tests.simulation.transaction import DECIMALS


CLIENT = "gateway"

_RETRY_SECONDS = (1.0, 20.0)
_ARRIVE_WITHIN = 40.0
_CHANGES_ITS_MIND = 0.1


@dataclass(frozen=True, slots=True)
class Order:
    """
    One request of a client; ``amount`` is in base units, and unique.

    Of two with the same reference or key, the service must reject one.
    """

    key: str
    reference: str
    amount: int

    @property
    def request(self) -> RefundRequest:
        """The request to the service."""
        whole, part = divmod(self.amount, 10**DECIMALS)
        return RefundRequest(
            payment_session_id="session",
            reference=self.reference,
            network="local",
            token="TUSD",
            recipient=customer(self.reference),
            amount=f"{whole}.{part:0{DECIMALS}}",
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer to a client."""

    order: Order
    refund_id: str


@dataclass
class Journal:
    """
    The answers that clients got, and the orders that were rejected.

    ``earlier`` are the answers from before a restore, and ``cancelled`` the ids of the
    refunds that clients know to be cancelled.
    """

    answers: list[Answer] = field(default_factory=list)
    rejected: set[Order] = field(default_factory=set)
    earlier: tuple[Answer, ...] = ()
    cancelled: set[str] = field(default_factory=set)

    def is_settled(self, order: Order) -> bool:
        """Whether the client of *order* has its answer."""
        return order in self.rejected or any(
            answer.order == order for answer in self.answers
        )


Job = Callable[[RefundService], None]
"""An entry in the queue of an API process."""


@cache
def customer(reference: str) -> str:
    """Return the address of a refund's recipient."""
    return to_checksum_address(keccak(text=reference)[-20:])


def draw_orders(scheduler: Scheduler, requests: int) -> tuple[Order, ...]:
    """Draw the orders: some have the key or the reference of another one."""
    orders = []
    for i in range(requests):
        # Amounts are not in the order of arrival or of names.
        order = Order(
            f"key-{i}", f"order-{i}", 1_000_000 + scheduler.random.randrange(10**6) * 9
        )
        orders.append(order)
        chance = scheduler.random.random()
        if chance < 0.1:
            orders.append(Order(f"other-key-{i}", order.reference, order.amount + 1))
        elif chance < 0.2:
            orders.append(Order(order.key, order.reference, order.amount + 2))
    return tuple(orders)


class Clients:
    """
    Send each request to a random API process, and repeat it until it is answered.

    So a slow request is sent twice at once, as by a gateway.
    """

    def __init__(
        self, scheduler: Scheduler, orders: Sequence[Order], queues: Sequence[list[Job]]
    ) -> None:
        self.orders = orders
        self.journal = Journal()
        self._scheduler = scheduler
        self._queues = queues

    def begin(self) -> None:
        """Schedule all requests, and half of them twice."""
        for order in self.orders:
            self._later(order, self._scheduler.random.uniform(0, _ARRIVE_WITHIN))
            if self._scheduler.random.random() < 0.5:
                self._later(order, self._scheduler.random.uniform(0, _ARRIVE_WITHIN))

    def hear_of_restore(self, kept: Container[str], *, asks_again: bool) -> None:
        """
        Request again what a restored ledger has lost, or everything.

        *kept* are the ids of the refunds that it has.
        """
        before = self.journal
        self.journal = Journal(
            rejected=set() if asks_again else before.rejected,
            earlier=tuple(before.answers),
            cancelled=before.cancelled,
        )
        if not asks_again:
            self.journal.answers = [a for a in before.answers if a.refund_id in kept]
        for order in self.orders:
            if not self.journal.is_settled(order):
                self._later(order, self._scheduler.random.uniform(0, _ARRIVE_WITHIN))

    def is_done(self) -> bool:
        """Whether every order has an answer."""
        return all(self.journal.is_settled(order) for order in self.orders)

    def _later(self, order: Order, seconds: float) -> None:
        self._scheduler.after(seconds, lambda: self._send_order(order))

    def _send_order(self, order: Order) -> None:
        if self.journal.is_settled(order):
            return
        journal = self.journal
        self._send(lambda service: self._submit(order, service, journal))
        self._later(order, self._scheduler.random.uniform(*_RETRY_SECONDS))

    def _send(self, job: Job) -> None:
        self._scheduler.random.choice(self._queues).append(job)

    def _submit(self, order: Order, service: RefundService, journal: Journal) -> None:
        try:
            refund = _request(service, order)
        except ConflictError as e:
            self._scheduler.log(order.key, f"is rejected: {e.code}")
            journal.rejected.add(order)
        except HotWalletError as e:
            self._scheduler.log(order.key, f"gets {e.code}")
        else:
            got = f"gets {refund.id} {refund.status} n{refund.nonce}"
            self._scheduler.log(order.key, got)
            answer = Answer(order, refund.id)
            journal.answers.append(answer)
            if self._scheduler.random.random() < _CHANGES_ITS_MIND:
                self._send(lambda service: self._cancel(answer, service))

    def _cancel(self, answer: Answer, service: RefundService) -> None:
        try:
            refund = service.request_cancellation(
                CLIENT, answer.refund_id, Actor(CLIENT)
            )
            refund = service.await_cancellation(refund)
            if refund.status is Status.CANCELLED:
                self.journal.cancelled.add(refund.id)
        except HotWalletError as e:
            self._scheduler.log(answer.order.key, f"cannot cancel: {e.code}")
        else:
            self._scheduler.log(answer.order.key, f"cancels, gets {refund.status}")


def _request(service: RefundService, order: Order) -> Refund:
    """Do what ``api/http/refunds.py`` does for a POST, without HTTP."""
    submission = service.submit(
        tenant=CLIENT,
        idempotency_key=order.key,
        request=order.request,
        actor=Actor.from_token(CLIENT, "simulated", None),
    )
    return service.await_broadcast(submission.refund)
