"""Alerts when a node does not answer, contradicts the others, or lags them."""

import time
from collections.abc import Callable, Iterator, Sequence

from signer.alerts import Alert, Alerts, AlertThrottle
from signer.model.network_view import NodeView


REMIND_SECONDS = 6 * 3600.0
"""How often the alert is repeated: the other nodes do its work meanwhile."""

FINE_SECONDS = 60.0
"""How long a node must be fine before its next problem is another alert."""

_Subject = tuple[Alert, str, str]


class NodeAlarm:
    """
    Raises ``node-down`` and ``node-lagging``, at the second look that finds the same.

    A request that is lost is no alert.  A node that fails every minute is one alert.
    """

    def __init__(
        self, alerts: Alerts, timer: Callable[[], float] = time.monotonic
    ) -> None:
        """Measure time with *timer*, in seconds."""
        self._alerts = alerts
        self._timer = timer
        self._throttle = AlertThrottle(timer, remind=REMIND_SECONDS)
        self._seen: set[_Subject] = set()
        self._fine_since: dict[_Subject, float] = {}

    def look(self, network: str, nodes: Sequence[NodeView]) -> bool:
        """Return whether *nodes* have a new problem, which a next look confirms."""
        is_new = False
        for node in nodes:
            found = set(_problems(node))
            for alert in (Alert.NODE_DOWN, Alert.NODE_LAGGING):
                subject = alert, network, node.name
                if alert not in found:
                    self._pass(subject)
                elif subject in self._seen:
                    self._report(subject, node)
                else:
                    self._seen.add(subject)
                    is_new = True
        return is_new

    def _pass(self, subject: _Subject) -> None:
        self._seen.discard(subject)
        now = self._timer()
        if now - self._fine_since.setdefault(subject, now) >= FINE_SECONDS:
            self._throttle.clear(subject)

    def _report(self, subject: _Subject, node: NodeView) -> None:
        alert, network, name = subject
        self._fine_since.pop(subject, None)
        if self._throttle.is_due(alert, subject):
            self._alerts.sound(alert, network=network, node=name, lag=node.lag)


def _problems(node: NodeView) -> Iterator[Alert]:
    if node.is_down:
        yield Alert.NODE_DOWN
    if node.is_lagging:
        yield Alert.NODE_LAGGING
