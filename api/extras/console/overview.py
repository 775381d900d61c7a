"""What the first page shows: the state of the service at a glance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from api.container import Container
from api.extras.console.attention import OverviewFacts, find_notices
from api.extras.console.links import Explorers, draw_qr_code, runbook_links
from api.extras.console.trends import (
    DAY,
    find_blockers,
    plot_refunds,
    recent_p99,
)
from api.extras.console.wallets import read_measurements
from api.views.codes import load_codes
from signer.config.settings import Environment
from signer.errors import ConfigurationError, Refusal
from signer.model.key import find_active_key
from signer.model.refund import OPEN, Status
from signer.model.worker_row import find_running
from signer.startup.guard import check_settings


@dataclass(frozen=True, slots=True)
class GuardState:
    """
    The guard's *warnings*, and what it would refuse in production.

    A process that runs has passed the guard.
    """

    warnings: Sequence[str]
    in_production: Sequence[Refusal]


def read_guard(container: Container) -> GuardState:
    """Run the guard's checks of the settings again; they open nothing."""
    settings, networks = container.settings, container.networks
    strict = settings.model_copy(update={"app_env": Environment.PRODUCTION})
    refused: list[Refusal] = []
    for check in (
        partial(check_settings, strict, networks),
        partial(container.check_backend, strict),
    ):
        try:
            check()
        except ConfigurationError as e:
            refused += e.refusals
    try:
        warnings = check_settings(settings, networks)
        warnings += container.check_backend(settings)
    except ConfigurationError as e:  # The files were changed after the start.
        warnings = [str(refusal) for refusal in e.refusals]
    return GuardState(warnings, refused)


_HOUR = timedelta(hours=1)


def read_overview(container: Container) -> Mapping[str, object]:
    """
    Return what the page shows; asks no node but those of the readiness check (4 s).

    ``cures`` explain the codes of the notices, and ``runbooks`` are links by code.
    ``accepted`` counts the refunds that were accepted in the last hour, and within
    ``p99`` seconds 99 % of them were broadcast.  ``qr_code`` is the active key's
    address.
    """
    ledger, now = container.store, container.ledger_clock()
    workers, networks = ledger.workers(), container.networks
    readiness, measured = container.readiness(), read_measurements(workers, now)
    facts = OverviewFacts(
        now, readiness, workers, measured, container.approvals.list(), networks
    )
    counts: Counter[Status] = Counter(dict.fromkeys(sorted(OPEN, key=_order), 0))
    oldest: dict[Status, datetime] = {}
    for group in ledger.open_refunds():
        counts[group.status] += group.number
        oldest[group.status] = min(group.since, oldest.get(group.status, now))
    settings, key = container.settings, find_active_key(ledger.keys())
    return {
        "now": now,
        "key": key,
        "environment": str(settings.app_env),
        "notices": find_notices(ledger, facts),
        "cures": {each["code"]: each for each in load_codes()},
        "runbooks": runbook_links(settings.runbook_url),
        "open_refunds": counts,
        "oldest": oldest,
        "accepted": sum(ledger.accepted_since(now - _HOUR).values()),
        "readiness": readiness,
        "measurements": measured,
        "workers": len(find_running(workers, now)),
        "networks": networks,
        "explorers": Explorers.of(networks),
        "guard": read_guard(container),
        "blockers": find_blockers(ledger),
        "refunds": plot_refunds(ledger, DAY, now),
        "p99": recent_p99(ledger, now),
        "qr_code": None if key is None else draw_qr_code(key.address),
    }


def _order(status: Status) -> int:
    return list(Status).index(status)
