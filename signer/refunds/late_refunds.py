"""Which refunds have waited for too long, whatever they wait for."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from signer.model.refund import OPEN, Status
from signer.ports.refund_reports import OpenRefunds


LATE_SECONDS = 900.0
"""How long a refund may have one status.  One that awaits an approval may wait."""

WAITING = OPEN - {Status.AWAITING_APPROVAL}


def find_oldest(groups: Iterable[OpenRefunds]) -> Mapping[str, OpenRefunds]:
    """Return the group with the oldest waiting refund, by network."""
    oldest: dict[str, OpenRefunds] = {}
    for each in groups:
        if each.status in WAITING:
            known = oldest.setdefault(each.network, each)
            oldest[each.network] = min(known, each, key=lambda group: group.since)
    return oldest


def waited_seconds(group: OpenRefunds, now: datetime) -> float:
    """Return for how long the oldest refund of *group* has had its status."""
    return (now - group.since).total_seconds()
