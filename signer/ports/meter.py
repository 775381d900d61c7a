"""The port that measures what a process does; this class measures nothing."""

from signer.model.network_view import NetworkView
from signer.model.refund import Refund


class Meter:
    """
    Measures what a process does, for its metrics.

    Threads share an instance.  No method raises.
    """

    def signed(
        self,
        backend: str,
        outcome: str,
        seconds: float,
        *,
        attempts: int,
        throttled: int,
    ) -> None:
        """
        Count a signature of *backend*, or a failure; *outcome* is as in the audit log.

        It took *attempts* calls of the device, *throttled* of which it rejected.
        """

    def moved(self, before: Refund, after: Refund) -> None:
        """Count a change of a refund's status, which is stored."""

    def delayed(self, refund: Refund, code: str) -> None:
        """Count a step that failed and is repeated later."""

    def looked(self, network: str, view: NetworkView | None) -> None:
        """Keep the newest view of *network*; None if another worker looks now."""


NO_METER = Meter()
