"""Signatures in a SoftHSM token, against the bare ``C_Sign``."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bench.devices import open_softhsm
from bench.harness import Figure, Goal, Prepared, Scenario
from bench.signing import OpenKey, eth_account_signer
from bench.timing import rate
from signer.ports.key_backend import DeviceSignature


_BARE = "C_Sign, 1 thread"
_BARE_TWO = "C_Sign, 2 threads"
_BACKEND = "PKCS11Backend.sign_digest, 1 thread"
_BACKEND_TWO = "PKCS11Backend.sign_digest, 2 threads"
_DIGEST = "Signer.sign_digest, 1 thread"
_DIGEST_TWO = "Signer.sign_digest, 2 threads"
_WHOLE = "whole transaction, 1 thread"
_WHOLE_TWO = "whole transaction, 2 threads"
_RAW_KEY = "eth-account with a raw key, 1 thread"


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    token = open_softhsm(folder)

    def bare() -> bytes:
        return token.sign_bare(os.urandom(32))

    def backend() -> DeviceSignature:
        return token.backend.sign_digest(token.key_id, os.urandom(32))

    key = OpenKey(token.backend, token.key_id)
    figures = [
        Figure(_BARE, "/s"),
        Figure(_BARE_TWO, "/s", (Goal(_BARE),)),
        Figure(_BACKEND, "/s", (Goal(_BARE, at_least=0.85),)),
        Figure(_BACKEND_TWO, "/s", (Goal(_BACKEND, at_least=1.8), Goal(_BARE_TWO))),
        Figure(_DIGEST, "/s", (Goal(_BARE, at_least=0.85),)),
        Figure(_DIGEST_TWO, "/s", (Goal(_DIGEST, at_least=1.8), Goal(_BARE_TWO))),
        Figure(_WHOLE, "/s", (Goal(_BARE, at_least=0.75),)),
        Figure(_WHOLE_TWO, "/s", (Goal(_WHOLE, at_least=1.8), Goal(_BARE_TWO))),
        Figure(_RAW_KEY, "/s", (Goal(_BARE),)),
    ]
    works = [
        rate(_BARE, bare),
        rate(_BACKEND, backend),
        rate(_DIGEST, key.sign_digest),
        rate(_WHOLE, key.sign_transaction),
        rate(_RAW_KEY, eth_account_signer()),
        rate(_BARE_TWO, bare, 2),
        rate(_BACKEND_TWO, backend, 2),
        rate(_DIGEST_TWO, key.sign_digest, 2),
        rate(_WHOLE_TWO, key.sign_transaction, 2),
    ]
    yield Prepared(figures, works)


SCENARIO = Scenario("softhsm", "Signatures on SoftHSM", _open, rounds=25, seconds=0.3)
