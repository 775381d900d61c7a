"""
Alerts when a node does not answer, contradicts the others, or lags them.

And when a whole network does not work, although each of its workers does.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from signer.alerts import Alert, Alerts
from signer.model.network_view import NodeView


FINE_SECONDS = 60.0
"""How long a node must be fine before its next problem is another alert."""

OF_NODE = (Alert.NODE_DOWN, Alert.NODE_LAGGING)
OF_NETWORK = (Alert.QUORUM_LOST, Alert.CHAIN_STALLED, Alert.REFUNDS_LATE)

Facts = Mapping[str, str | int | None]
_Subject = tuple[Alert, str, str]


class NodeAlarm:
    """
    Raises ``node-down`` and ``node-lagging``, at the second look that finds the same.

    A request that is lost is no alert.  A node that fails every minute is one alert.
    The same holds for the alerts ``OF_NETWORK``.
    """

    def __init__(
        self, alerts: Alerts, timer: Callable[[], float] = time.monotonic
    ) -> None:
        """Measure time with *timer*, in seconds."""
        self._alerts = alerts
        self._timer = timer
        self._seen: set[_Subject] = set()
        self._fine_since: dict[_Subject, float] = {}

    def look(
        self,
        network: str,
        nodes: Sequence[NodeView],
        problems: Mapping[Alert, Facts] = MappingProxyType({}),
    ) -> bool:
        """
        Return whether there is a new problem, which a next look confirms.

        *problems* are those of the whole *network*, with the facts of their alerts.
        """
        found: dict[tuple[Alert, str], Facts] = {
            (alert, node.name): {"node": node.name, "lag": node.lag}
            for node in nodes
            for alert in _problems(node)
        } | {(alert, ""): facts for alert, facts in problems.items()}
        looked_at = [
            *((alert, node.name) for node in nodes for alert in OF_NODE),
            *((alert, "") for alert in OF_NETWORK),
        ]
        is_new = False
        for alert, name in looked_at:
            subject, facts = (alert, network, name), found.get((alert, name))
            if facts is None:
                self._pass(subject)
            elif subject in self._seen:
                self._report(subject, facts)
            else:
                self._seen.add(subject)
                is_new = True
        return is_new

    def _pass(self, subject: _Subject) -> None:
        self._seen.discard(subject)
        now = self._timer()
        if now - self._fine_since.setdefault(subject, now) >= FINE_SECONDS:
            alert, network, node = subject
            self._alerts.resolve(alert, network=network, node=node or None)

    def _report(self, subject: _Subject, facts: Facts) -> None:
        alert, network, _ = subject
        self._fine_since.pop(subject, None)
        self._alerts.remind(alert, network=network, **facts)


def _problems(node: NodeView) -> Iterator[Alert]:
    if node.is_down:
        yield Alert.NODE_DOWN
    if node.is_lagging:
        yield Alert.NODE_LAGGING
