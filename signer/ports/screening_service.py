"""The port to a service that knows which addresses must not be paid."""

from collections.abc import Collection, Mapping
from typing import Protocol


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
