"""The ports to services of others: screening, webhooks, token keys and nodes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol


Question = tuple[str, int]
"""An address, and the id of the chain on which it is to be paid."""


class ScreeningService(Protocol):
    """
    Screens recipients; safe for threads.

    Each tenant has a share of the questions that are open at once.
    """

    def allows(self, address: str, chain_id: int, tenant: str) -> bool:
        """
        Return whether *address* may be paid on the chain with *chain_id*.

        *tenant* wants to pay it.

        Raises:
            ScreeningUnavailableError: There is no usable answer; pay nothing.
        """

    def answers(
        self, questions: Collection[Question], tenant: str
    ) -> Mapping[Question, bool | None]:
        """
        Return what ``allows`` returns about *questions*, several of them at once.

        The answer is None if there is none within a bounded time.
        """


class WebhookSender(Protocol):
    """Sends messages to receivers, none of which is trusted."""

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> str | None:
        """
        Post *body*; return None if the receiver accepted it, and the problem otherwise.

        It takes a bounded time, except for the resolution of the host's name.  It sends
        nothing if the host has an address that events must not be sent to.
        """


class Notifier(Protocol):
    """Sends alerts to an external system."""

    def notify(self, document: Mapping[str, object]) -> None:
        """Send *document*, possibly in the background; never raises."""


class KeySetError(Exception):
    """No usable JWK Set was fetched; the message is a reason code for the log."""


FetchKeySet = Callable[[], bytes]
"""Returns the JSON document of a JWK Set (RFC 7517), or raises ``KeySetError``."""


class NodeProxy(Protocol):
    """Forwards JSON-RPC requests; nothing that it returns decides about a payment."""

    def forward(self, method: str, params: Sequence[Any]) -> Any:
        """
        Return the result of *method*, as JSON, from the first node that answers.

        Raises:
            RevertedCallError: The contract reverts; it has the contract's data.
            InvalidInputError: The node refuses the parameters.
            ResultTooLargeError: The result is too large.
            ChainError: No node answered.
        """
