"""Those who ask for refunds, ask again, and remember what they were told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from signer.errors import ConflictError, HotWalletError, InProgressError
from signer.model.refund import RefundRequest
from tests.simulation.hub import Hub
from tests.simulation.wire import DECIMALS


CLIENT = "gateway"

_RETRY_SECONDS = (1.0, 20.0)
_ARRIVE_WITHIN = 40.0
_CHANGES_ITS_MIND = 0.1


@dataclass(frozen=True, slots=True)
class Ask:
    """
    One request of a client; ``amount`` is in base units, and nobody else's.

    Two may share a reference or a key: then one of them must be turned down.
    """

    key: str
    reference: str
    amount: int

    @property
    def request(self) -> RefundRequest:
        """What goes to the service."""
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
class Told:
    """What a client was answered with 2xx."""

    ask: Ask
    refund_id: str
    body: str


@dataclass
class Journal:
    """The clients' truth: what they were told, and who was turned down."""

    told: list[Told] = field(default_factory=list)
    turned_down: set[Ask] = field(default_factory=set)

    def is_settled(self, ask: Ask) -> bool:
        """Whether the client of *ask* has its answer."""
        return ask in self.turned_down or any(told.ask == ask for told in self.told)


class API(Protocol):
    """What an API process answers, if it does not raise."""

    def submit(self, ask: Ask) -> Told:
        """Ask for a refund."""

    def cancel(self, refund_id: str) -> None:
        """Call a refund back."""


Job = Callable[[API], None]
"""What waits in the queue of an API process."""


@cache
def customer(reference: str) -> str:
    """Return the address of whoever is to be refunded."""
    return to_checksum_address(keccak(text=reference)[-20:])


def drawn(hub: Hub, requests: int) -> tuple[Ask, ...]:
    """Return what is asked for: some twice, with another key or another amount."""
    asks = []
    for i in range(requests):
        # Not in the order of their arrival, nor of their names.
        ask = Ask(f"key-{i}", f"order-{i}", 1_000_000 + hub.random.randrange(10**6) * 9)
        asks.append(ask)
        chance = hub.random.random()
        if chance < 0.1:
            asks.append(Ask(f"other-key-{i}", ask.reference, ask.amount + 1))
        elif chance < 0.2:
            asks.append(Ask(ask.key, ask.reference, ask.amount + 2))
    return tuple(asks)


class Clients:
    """
    Send each request to a random API process, again and again until it is answered.

    A request that is slow is therefore asked twice at once, as a gateway does.
    """

    def __init__(
        self, hub: Hub, asks: Sequence[Ask], queues: Sequence[list[Job]]
    ) -> None:
        self.asks = asks
        self.journal = Journal()
        self._hub = hub
        self._queues = queues

    def begin(self) -> None:
        """Let the requests arrive, one after the other or together."""
        for ask in self.asks:
            self._later(ask, self._hub.random.uniform(0, _ARRIVE_WITHIN))
            if self._hub.random.random() < 0.5:
                self._later(ask, self._hub.random.uniform(0, _ARRIVE_WITHIN))

    def forget(self) -> None:
        """Ask for everything again, since the service may have lost it."""
        self.journal = Journal()
        for ask in self.asks:
            self._later(ask, self._hub.random.uniform(0, _ARRIVE_WITHIN))

    def is_done(self) -> bool:
        """Whether everybody has an answer."""
        return all(self.journal.is_settled(ask) for ask in self.asks)

    def _later(self, ask: Ask, seconds: float) -> None:
        self._hub.after(seconds, lambda: self._ask(ask))

    def _ask(self, ask: Ask) -> None:
        if self.journal.is_settled(ask):
            return
        journal = self.journal
        self._send(lambda api: self._served(ask, api, journal))
        self._later(ask, self._hub.random.uniform(*_RETRY_SECONDS))

    def _send(self, job: Job) -> None:
        self._hub.random.choice(self._queues).append(job)

    def _served(self, ask: Ask, api: API, journal: Journal) -> None:
        try:
            told = api.submit(ask)
        except InProgressError:
            return
        except ConflictError as e:
            self._hub.tell(ask.key, f"is turned down: {e.code}")
            journal.turned_down.add(ask)
        except HotWalletError as e:
            self._hub.tell(ask.key, f"is told {e.code}")
        else:
            self._hub.tell(ask.key, f"is told {told.body}")
            journal.told.append(told)
            if self._hub.random.random() < _CHANGES_ITS_MIND:
                self._send(lambda api: self._cancelled(told, api))

    def _cancelled(self, told: Told, api: API) -> None:
        try:
            api.cancel(told.refund_id)
        except HotWalletError as e:
            self._hub.tell(told.ask.key, f"cannot cancel: {e.code}")
        else:
            self._hub.tell(told.ask.key, "has cancelled")
