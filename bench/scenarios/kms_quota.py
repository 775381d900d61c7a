"""More signatures offered than KMS's quota allows."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.devices import kms_stand_in, open_kms
from bench.harness import Figure, Goal, Prepared, Scenario, Values, Work
from bench.offered_load import Offered, calls_between
from bench.signing import OpenKey


_THREADS = 64
_EXCESS = 1.2
_SHARE = 0.95
# The second is low enough to be exceeded on a small machine.
_QUOTAS = (1000, 250)


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    with contextlib.ExitStack() as cleanup:
        works = [cleanup.enter_context(_offer(quota)) for quota in _QUOTAS]
        figures = [figure for quota in _QUOTAS for figure in _figures(quota)]
        yield Prepared(figures, works)


@contextlib.contextmanager
def _offer(quota: int) -> Iterator[Work]:
    with kms_stand_in("--latency", "20", "--quota", str(quota)) as stand_in:
        # As the documentation advises: a little below the quota.
        backend = open_kms(stand_in, _THREADS, per_second=int(quota * _SHARE))
        key = OpenKey(backend, stand_in.key_id)
        offered = Offered(key.sign_digest, rate=quota * _EXCESS, threads=_THREADS)

        def work(seconds: float) -> Values:
            before = stand_in.counts()
            outcome = offered.run(seconds)
            calls = calls_between(before, stand_in.counts())
            made = max(1, outcome.succeeded + outcome.failed)
            signed, errors, per_signature, waiting = _names(quota)
            return {
                signed: outcome.succeeded / outcome.seconds,
                errors: 100 * outcome.failed / made,
                per_signature: calls / max(1, outcome.succeeded),
                waiting: outcome.waiting / seconds,
            }

        yield work


def _names(quota: int) -> tuple[str, str, str, str]:
    name = f"quota {quota:,}, offered {quota * _EXCESS:,.0f}"
    return (
        f"{name}: signatures",
        f"{name}: errors",
        f"{name}: calls per signature",
        f"{name}: growth of the queue",
    )


def _figures(quota: int) -> list[Figure]:
    signed, errors, per_signature, waiting = _names(quota)
    excess = quota * (_EXCESS - 1)
    return [
        Figure(signed, "/s", (Goal(float(quota), at_least=0.9),)),
        Figure(errors, "%", (Goal(1.0, at_most=1.0),)),
        Figure(per_signature, "", (Goal(1.0),)),
        Figure(waiting, "/s", (Goal(excess),)),
    ]


SCENARIO = Scenario(
    "kms-quota",
    "KMS's quota exceeded by a fifth",
    _open,
    rounds=5,
    seconds=5.0,
    quick_seconds=0.3,
)
