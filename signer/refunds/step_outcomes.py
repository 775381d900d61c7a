"""What became of each refund of a batch."""

from collections.abc import Iterator
from contextlib import contextmanager

from signer.model.refund import Refund


Outcome = Refund | Exception
"""A refund after a step, or why the step failed."""


class Outcomes(dict[str, Outcome]):
    """
    The outcomes of a batch, by the refund's id.

    An error of one refund is its outcome, and does not end the batch.
    """

    @contextmanager
    def capture(self, refund: Refund) -> Iterator[None]:
        """Keep an error that leaves the context as the outcome of *refund*."""
        try:
            yield
        except Exception as e:  # noqa: BLE001 - one refund's bug must not stop others.
            self[refund.id] = e
