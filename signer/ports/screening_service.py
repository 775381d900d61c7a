"""The port to a service that knows which addresses must not be paid."""

from typing import Protocol


class ScreeningService(Protocol):
    """Screens recipients; safe for threads."""

    def allows(self, address: str, chain_id: int) -> bool:
        """
        Return whether *address* may be paid on the chain with *chain_id*.

        Raises:
            ScreeningUnavailableError: There is no usable answer; pay nothing.
        """
