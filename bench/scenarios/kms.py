"""Signatures through KMS, against bare boto3 and the JavaScript library."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.devices import bare_kms, kms_stand_in, open_kms
from bench.harness import Figure, Goal, Prepared, Scenario, Values
from bench.javascript import javascript_signer
from bench.signing import OpenKey
from bench.timing import rate


_THREADS = 16

_BARE, _BARE_MANY = "bare boto3 sign, 1 thread", "bare boto3 sign, 16 threads"
_DIGEST = "Signer.sign_digest, 1 thread"
_DIGEST_MANY = "Signer.sign_digest, 16 threads"
_WHOLE = "whole transaction, 1 thread"
_WHOLE_MANY = "whole transaction, 16 threads"
_JAVASCRIPT = "JavaScript library, whole transaction, 1 at a time"
_JAVASCRIPT_MANY = "JavaScript library, whole transaction, 16 at a time"


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    with kms_stand_in() as stand_in, javascript_signer(stand_in) as javascript:
        bare = bare_kms(stand_in, _THREADS)
        key = OpenKey(open_kms(stand_in, _THREADS), stand_in.key_id)
        works = [
            rate(_BARE, bare),
            rate(_DIGEST, key.sign_digest),
            rate(_WHOLE, key.sign_transaction),
            rate(_BARE_MANY, bare, _THREADS),
            rate(_DIGEST_MANY, key.sign_digest, _THREADS),
            rate(_WHOLE_MANY, key.sign_transaction, _THREADS),
        ]
        notes = []
        if isinstance(javascript, str):
            notes.append(f"Without the JavaScript library: {javascript}.")
        else:
            measure = javascript

            def one(seconds: float) -> Values:
                return {_JAVASCRIPT: measure(1, seconds)}

            def many(seconds: float) -> Values:
                return {_JAVASCRIPT_MANY: measure(_THREADS, seconds)}

            works += [one, many]
        yield Prepared(_FIGURES, works, notes)


_FIGURES = [
    Figure(_BARE, "/s"),
    Figure(_BARE_MANY, "/s", (Goal(_BARE),)),
    Figure(_DIGEST, "/s", (Goal(_BARE),)),
    Figure(_DIGEST_MANY, "/s", (Goal(_BARE_MANY),)),
    Figure(_WHOLE, "/s", (Goal(_BARE, at_least=0.85), Goal(_JAVASCRIPT))),
    Figure(
        _WHOLE_MANY,
        "/s",
        (Goal(_BARE_MANY, at_least=0.85), Goal(_JAVASCRIPT_MANY, at_least=4)),
    ),
    Figure(_JAVASCRIPT, "/s", (Goal(_BARE),)),
    Figure(_JAVASCRIPT_MANY, "/s", (Goal(_BARE_MANY),)),
]

SCENARIO = Scenario("kms", "Signatures through AWS KMS", _open, rounds=15, seconds=0.5)
