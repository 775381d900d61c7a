"""Refunds of a healthy network beside a long queue that cannot be paid."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench.growth.comparison import Comparison, Durations, Measure, compare
from bench.growth.site import OTHER, OTHER_NETWORK, Site, open_site
from bench.refund_rates import percentile
from signer.model.hold import Hold


MANY, QUICK = 10_000, 300

_POSTS = 20

_PASSES = 60
"""So many passes lead to the longest delay of the queue's refunds."""

_BLOCKED = "blocked"


def _pause(site: Site, count: int) -> None:
    site.queue(count, network=OTHER)  # Its wallet is paused when it is opened.


def _stop(site: Site, count: int) -> None:
    site.queue(count, network=OTHER)
    stop = Hold.of_chain(OTHER_NETWORK.chain_id, site.clock(), "bench", "cli:bench")
    site.store.begin_hold(stop)


def _block(site: Site, count: int) -> None:
    site.queue(count, network="local", tenant=_BLOCKED)
    site.store.begin_hold(Hold.of_tenant(_BLOCKED, site.clock(), "", "cli:bench"))


_KINDS: Mapping[str, Callable[[Site, int], None]] = {
    "a paused wallet": _pause,
    "a stopped network": _stop,
    "a blocked tenant": _block,
}


@contextlib.contextmanager
def backlog(folder: Path, *, is_quick: bool) -> Iterator[list[Comparison]]:
    """Yield a comparison for each reason why a queue waits."""
    many = QUICK if is_quick else MANY
    with contextlib.ExitStack() as cleanup:
        comparisons = []
        for kind, queue in _KINDS.items():
            cases = []
            for count in (0, many):
                home = folder / f"{kind.replace(' ', '-')}-{count}.db"
                site = cleanup.enter_context(open_site(home))
                queue(site, count)
                for _ in range(_PASSES if count and not is_quick else 1):
                    site.run_pass()
                cases.append((f"{count:,} queued", _posts(kind, site)))
            names = list(_names(kind, 0, 0, 0))
            comparisons.append(compare(names, *cases, at_least=1 if is_quick else 5))
        yield comparisons


def _posts(kind: str, site: Site) -> Measure:
    """Return what posts refunds one after another, and runs a pass each second."""
    passed = site.clock()

    def measure() -> Durations:
        nonlocal passed
        began = time.perf_counter()
        latencies = [site.post() for _ in range(_POSTS)]
        if (site.clock() - passed).total_seconds() >= 1:
            passed = site.clock()
            site.mover.work()
        spent = time.perf_counter() - began
        return _names(
            kind,
            spent / _POSTS,
            statistics.median(latencies),
            percentile(latencies, 95),
        )

    return measure


def _names(kind: str, spent: float, median: float, slow: float) -> Durations:
    return {
        f"refund beside {kind}: time of the process": spent,
        f"refund beside {kind}: median to the broadcast": median,
        f"refund beside {kind}: p95 to the broadcast": slow,
    }
