"""What became of each refund, or of each transaction, of a batch."""

from collections.abc import Iterator
from contextlib import contextmanager

from signer.model.refund import Refund
from signer.model.transaction import Transaction


Moving = Refund | Transaction
"""What a step moves: a refund that has no nonce, or from then on a transaction."""

Outcome = Moving | Exception
"""What it is after the step, or why the step failed."""


class Outcomes(dict[str, Outcome]):
    """
    The outcomes of a batch, by the ids of what it moves.

    An error of one is its outcome, and does not end the batch.
    """

    @contextmanager
    def capture(self, moving: Moving) -> Iterator[None]:
        """Keep an error that leaves the context as the outcome of *moving*."""
        try:
            yield
        except Exception as e:  # noqa: BLE001 - one refund's bug must not stop others.
            self[moving.id] = e
