"""Signatures a second through a KMS that answers after 20 ms, as over a network."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.devices import bare_kms, kms_stand_in, open_kms
from bench.harness import Figure, Goal, Prepared, Scenario
from bench.signing import OpenKey
from bench.timing import rate


_THREADS = 64
_WANTED = 1000.0

_BARE = f"bare boto3 sign, {_THREADS} threads"
_DIGEST = f"Signer.sign_digest, {_THREADS} threads"
_WHOLE = f"whole transaction, {_THREADS} threads"


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    with kms_stand_in("--latency", "20") as stand_in:
        bare = bare_kms(stand_in, _THREADS)
        key = OpenKey(open_kms(stand_in, _THREADS), stand_in.key_id)
        figures = [
            Figure(_BARE, "/s", (Goal(_WANTED),)),
            Figure(_DIGEST, "/s", (Goal(_WANTED, at_least=1.0), Goal(_BARE))),
            Figure(_WHOLE, "/s", (Goal(_WANTED), Goal(_BARE))),
        ]
        works = [
            rate(_BARE, bare, _THREADS),
            rate(_DIGEST, key.sign_digest, _THREADS),
            rate(_WHOLE, key.sign_transaction, _THREADS),
        ]
        yield Prepared(figures, works)


SCENARIO = Scenario(
    "kms-latency",
    "One process, KMS with a latency of 20 ms",
    _open,
    rounds=7,
    seconds=2.0,
    quick_seconds=0.2,
)
