"""The port that measures what a process does; by itself it measures nothing."""

from collections.abc import Sequence
from functools import partial

from signer.errors import HotWalletError
from signer.model.decision import Verdict
from signer.model.network_view import NetworkView
from signer.model.refund import Refund
from signer.model.transaction import Transaction


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

    def delayed(self, moving: Refund | Transaction, code: str) -> None:
        """Count a step that failed and is repeated later."""

    def paid_fee(self, network: str, wei: int) -> None:
        """Count the fee of the transaction that ended a refund, in wei."""

    def ended(self, network: str, *, signatures: int) -> None:
        """Count a refund that ended, for whose nonce so many *signatures* were made."""

    def ended_batch(self, network: str, size: int, unpaid: Sequence[str]) -> None:
        """Count a final batch of *size* refunds, and those it did not pay, by code."""

    def accepted(self, refund: Refund, seconds: float, trace: str | None) -> None:
        """
        Count a new refund, which is stored.

        Its request took *seconds* so far.  *trace* is the header ``traceparent`` of the
        request (W3C Trace Context), as the caller sent it.
        """

    def refused(self, error: HotWalletError) -> None:
        """Count a request for a refund that was not accepted, by its code."""

    def decided(self, path: str, verdict: Verdict, rule: str) -> None:
        """
        Count a decision of the policy about what *path* wants to sign.

        *rule* decided; it is one of the configuration.
        """

    def looked(self, network: str, view: NetworkView | None) -> None:
        """Keep the newest view of *network*; None if another worker looks now."""

    def topped_up(self, network: str, asset: str, *, is_failing: bool | None) -> None:
        """Keep whether top-ups of *asset* fail; None if another worker asks."""


class Meters(Meter):
    """Passes on to several meters what is measured."""

    def __init__(self, *meters: Meter) -> None:
        def pass_on(name: str, *args: object, **kwargs: object) -> None:
            for meter in meters:
                getattr(meter, name)(*args, **kwargs)

        for name in vars(Meter):
            if not name.startswith("_"):
                setattr(self, name, partial(pass_on, name))


NO_METER = Meter()
