"""Nodes that are down or lag raise one alert, at the second look."""

from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from signer.alerts import LASTING, Alert, Alerts
from signer.model.network_view import LAGGING_BLOCKS, NodeView
from signer.refunds.wallet_monitor import FINE_SECONDS, Facts, NodeAlarm


FINE = NodeView("node-2", 0, is_trusted=True)
DOWN = NodeView("node-2", None, is_trusted=False)
LYING = NodeView("node-2", 0, is_trusted=False, disagrees=True)
LATE = NodeView("node-2", LAGGING_BLOCKS + 1, is_trusted=True)
SLOW = NodeView("node-2", LAGGING_BLOCKS, is_trusted=True)

LOOK = 15.0


def _alerts(*nodes: NodeView, every: float = LOOK) -> list[tuple[str, int]]:
    """Look at each of *nodes*; return the alerts with the numbers of their looks."""
    now = [0.0]
    alerts = Alerts(clock=lambda: datetime.fromtimestamp(now[0], UTC))
    alarm = NodeAlarm(alerts, lambda: now[0])
    found: list[tuple[str, int]] = []
    for number, node in enumerate(nodes):
        now[0] = number * every
        with capture_logs() as logs:
            alarm.look("local", [node])
        raised = [each for each in logs if each["event"] == "alert"]
        found += [(each["alert"], number) for each in raised]
    return found


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([FINE, FINE], []),
        ([SLOW, SLOW, SLOW], []),
        ([FINE, DOWN, FINE, DOWN, FINE], []),
        ([DOWN, DOWN, DOWN], [("node-down", 1)]),
        ([LYING, LYING], [("node-down", 1)]),
        ([LATE, LATE, LATE], [("node-lagging", 1)]),
        ([LATE, DOWN, LATE, DOWN], []),
        ([LATE, LATE, DOWN, DOWN], [("node-lagging", 1), ("node-down", 3)]),
        # A node that fails again within a minute is the same problem.
        ([DOWN, DOWN, FINE, FINE, DOWN, DOWN], [("node-down", 1)]),
    ],
)
def test_the_second_look_raises_the_alert(
    nodes: list[NodeView], expected: list[tuple[str, int]]
) -> None:
    assert _alerts(*nodes) == expected


def test_a_node_that_recovered_is_reported_again() -> None:
    fine = [FINE] * (int(FINE_SECONDS / LOOK) + 1)
    nodes = [DOWN, DOWN, *fine, DOWN, DOWN]

    assert _alerts(*nodes) == [("node-down", 1), ("node-down", len(nodes) - 1)]


def test_the_alert_is_repeated_every_six_hours() -> None:
    assert _alerts(*[LATE] * 4, every=LASTING[Alert.NODE_LAGGING] / 2) == [
        ("node-lagging", 1),
        ("node-lagging", 3),
    ]


def test_nodes_are_told_apart() -> None:
    """The alert names the network, the node and its lag; a new problem is looked at."""
    alarm = NodeAlarm(Alerts())
    other = NodeView("node-1", 12, is_trusted=True)
    with capture_logs() as logs:
        assert alarm.look("local", [LATE]) is True
        assert alarm.look("local", [LATE, other]) is True
        assert alarm.look("other", [LATE]) is True
        assert alarm.look("local", [LATE, other]) is False

    assert [(each["network"], each["node"], each["lag"]) for each in logs] == [
        ("local", "node-2", 11),
        ("local", "node-1", 12),
    ]


def test_the_end_of_a_problem_is_reported() -> None:
    """After a minute, also of one of the whole network."""
    now = [0.0]
    alarm = NodeAlarm(Alerts(), lambda: now[0])
    problems: dict[Alert, Facts] = {Alert.QUORUM_LOST: {}}
    with capture_logs() as logs:
        for _ in range(3):
            alarm.look("local", [DOWN], problems)
        for now[0] in (0.0, FINE_SECONDS, 2 * FINE_SECONDS):
            alarm.look("local", [FINE])

    ends = [each for each in logs if each["event"] == "alert-resolved"]
    assert [(each["alert"], each["network"], each["node"]) for each in ends] == [
        ("node-down", "local", "node-2"),
        ("quorum-lost", "local", None),
    ]
