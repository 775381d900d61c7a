"""KMS throttles 30 % and fails 5 % of the calls, and 1 in 100 takes 2 seconds."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.devices import StandIn, kms_stand_in, open_kms
from bench.harness import Figure, Goal, Prepared, Scenario, Values
from bench.offered_load import calls_between
from bench.signing import OpenKey
from signer.errors import BackendError


_THREADS = 16
_PER_SECOND = 40  # Signatures wanted per second of the round.
_PATIENCE = 10.0
_PAUSE = 0.1
_THROTTLES, _ERRORS = 0.3, 0.05

_IN_TIME = f"signed within {_PATIENCE:g} s"
_FIRST = "signed at the first attempt of the caller"
_SLOWEST = "slowest signature"
_CALLS = "calls to KMS per signature"


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    behaviour = ["--latency", "20", "--slowest", "2000"]
    behaviour += ["--throttles", str(_THROTTLES), "--errors", str(_ERRORS)]
    with kms_stand_in(*behaviour) as stand_in:
        backend = open_kms(stand_in, _THREADS)
        key = OpenKey(backend, stand_in.key_id)

        def work(seconds: float) -> Values:
            count = max(_THREADS, int(seconds * _PER_SECOND))
            return _sign_many(stand_in, key.sign_digest, count)

        least = 1 / ((1 - _THROTTLES) * (1 - _ERRORS))
        note = f"No client needs fewer than {least:.2f} calls on average."
        yield Prepared(_FIGURES, [work], [note])


def _sign_many(stand_in: StandIn, sign: Callable[[], object], count: int) -> Values:
    before = stand_in.counts()
    with ThreadPoolExecutor(_THREADS) as threads:
        results = list(threads.map(lambda _: _sign_patiently(sign), range(count)))
    calls = calls_between(before, stand_in.counts())
    signed = [taken for taken, _ in results if taken is not None]
    return {
        _IN_TIME: 100 * len(signed) / count,
        _FIRST: 100 * sum(attempts == 1 for _, attempts in results) / count,
        _SLOWEST: max(signed, default=_PATIENCE),
        _CALLS: calls / max(1, len(signed)),
    }


def _sign_patiently(sign: Callable[[], object]) -> tuple[float | None, int]:
    """Sign, again after an error as the worker does; return seconds and attempts."""
    started, attempts = time.monotonic(), 0
    while (waited := time.monotonic() - started) < _PATIENCE:
        attempts += 1
        try:
            sign()
        except BackendError:
            time.sleep(min(_PAUSE, _PATIENCE - waited))
        else:
            return time.monotonic() - started, attempts
    return None, attempts


_FIGURES = [
    Figure(_IN_TIME, "%", (Goal(100.0, at_least=1.0),)),
    Figure(_FIRST, "%"),
    Figure(_SLOWEST, "s", (Goal(_PATIENCE, at_most=1.0),)),
    Figure(_CALLS, "", (Goal(1.0, at_most=1.5),)),
]

SCENARIO = Scenario(
    "kms-brown-out",
    "KMS in a brown-out: 30 % throttles, 5 % server errors, 2 s for 1 in 100",
    _open,
    rounds=5,
    seconds=5.0,
    quick_seconds=0.5,
)
