"""
Makes refunds wait while fees are far above those that their wallet recently paid.

The ledger is the source, not the nodes: a node that lies about the current fees would
lie about past ones too.  Only transfers of the last day count, so a wallet that has
paid little lately is not checked, and a market that stays higher is accepted after a
day at the latest.
"""

from datetime import datetime, timedelta
from statistics import median_low

from signer.alerts import Alert, Alerts
from signer.chain.chain import Chain
from signer.chain.fees import format_gwei
from signer.errors import FeesAboveRecentError
from signer.model.payment import PaymentPurpose
from signer.model.refund import Refund
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger


SAMPLE = 20
"""How many of a wallet's last confirmed transfers the median is taken of."""

FEWEST = 5
"""With fewer transfers in the last day, there is no median to compare with."""

RECENT = timedelta(hours=24)
"""How old a transfer of the median may be."""

_REFRESH = timedelta(minutes=1)


class GasPriceCheck:
    """
    Compares quoted fees with the median of a wallet's recent transfers.

    The alert is sounded once per process and network, until fees are normal again.
    Threads share it.
    """

    def __init__(self, store: Ledger, alerts: Alerts, clock: Clock) -> None:
        self._store = store
        self._alerts = alerts
        self._clock = clock
        self._medians: dict[tuple[int, str], tuple[datetime, int | None]] = {}

    def require_normal(
        self, refund: Refund, chain: Chain, sender: str, max_fee: int
    ) -> None:
        """
        Require that *max_fee* (wei) is at most ``max_fee_factor`` times the median.

        A sweep is not checked: an administrator requested it, and it may not wait.

        Raises:
            FeesAboveRecentError: It is higher; the refund waits.
        """
        factor = chain.network.max_fee_factor
        if not factor or refund.purpose is PaymentPurpose.SWEEP:
            return
        median = self.find_exceeded(chain, sender, max_fee)
        if median is None:
            self._alerts.resolve(Alert.FEES_ABOVE_RECENT, network=refund.network)
            return
        quoted, recent = format_gwei(max_fee), format_gwei(median)
        self._alerts.remind(
            Alert.FEES_ABOVE_RECENT,
            network=refund.network,
            max_fee_gwei=quoted,
            median_gwei=recent,
            factor=factor,
        )
        raise FeesAboveRecentError(
            f"a max fee of {quoted} gwei is over {factor} times the recent {recent}:"
            f" wait, or raise max_fee_factor of {refund.network} in the networks file"
        )

    def find_exceeded(self, chain: Chain, sender: str, max_fee: int) -> int | None:
        """
        Return the median of which *max_fee* is over ``max_fee_factor`` times.

        None if it is not.  Sounds no alert.
        """
        factor = chain.network.max_fee_factor
        median = self._median(chain.network.chain_id, sender) if factor else None
        return None if median is None or max_fee <= factor * median else median

    def _median(self, chain_id: int, sender: str) -> int | None:
        """Return the median, at most a minute old; None without enough transfers."""
        now = self._clock()
        at, median = self._medians.get((chain_id, sender), (now - _REFRESH, None))
        if abs(now - at) >= _REFRESH:
            fees = self._store.recent_max_fees(chain_id, sender, now - RECENT, SAMPLE)
            median = median_low(fees) if len(fees) >= FEWEST else None
            self._medians[chain_id, sender] = now, median
        return median
