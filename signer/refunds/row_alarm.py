"""Alerts when another program created or changed a row of the ledger."""

from signer.alerts import Alert, Alerts, AlertThrottle
from signer.errors import HotWalletError, RowNotAuthenticError


class RowAlarm:
    """Alerts ``row-not-authentic``, for each subject again only after a while."""

    def __init__(self, alerts: Alerts, throttle: AlertThrottle | None = None) -> None:
        self._alerts = alerts
        self._throttle = throttle or AlertThrottle()

    def report(self, error: HotWalletError, subject: str) -> None:
        """
        Alert if *error* is about a row's MAC.

        *subject* is a refund's id, "keys", "stops" or "wallets".
        """
        is_changed = isinstance(error, RowNotAuthenticError)
        if is_changed and self._throttle.is_due(Alert.ROW_CHANGED, subject):
            self._alerts.sound(Alert.ROW_CHANGED, subject=subject, problem=str(error))
