"""What the core asks of the ledger so that workers do not ask nodes for the same."""

from typing import Protocol

from signer.model.look import Look


class LookStore(Protocol):
    """The last look of any worker, by the name of what was looked at."""

    def last_look(self, name: str) -> Look | None:
        """Return the last look; None if there was none."""

    def save_look(self, name: str, before: Look | None, after: Look) -> bool:
        """
        Replace *before*, the last look, by *after*; return whether it was the last.

        Of several workers that try, one succeeds.
        """
