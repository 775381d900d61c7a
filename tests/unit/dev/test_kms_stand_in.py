"""The stand-in for measurements: signatures, quota and failures, as a process."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from backends.aws_kms.backend import KMSBackend
from backends.aws_kms.client import build_client
from signer.audit.log import AuditLog
from signer.errors import BackendError, BackendThrottledError, BackendUnavailableError
from signer.keys.signer import Signer
from tests.support.devices import recording


Facts = dict[str, Any]
StandIn = Callable[..., Facts]


@pytest.fixture
def stand_in(aws_environment: None) -> Iterator[StandIn]:
    """Return a function that starts a stand-in with options."""
    with ExitStack() as running:

        def start(*options: str) -> Facts:
            process = running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "dev.kms_stand_in", *options],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            running.callback(process.terminate)
            assert process.stdout is not None
            return dict(json.loads(process.stdout.readline()))

        yield start


def _open(facts: Facts) -> KMSBackend:
    return KMSBackend(build_client(facts["region"], facts["endpoint"], 1, 9_000, 4))


def _counts(facts: Facts) -> dict[str, int]:
    with urllib.request.urlopen(facts["endpoint"], timeout=10) as response:
        return dict(json.load(response))


def test_its_signatures_verify(stand_in: StandIn) -> None:
    """A signer checks the public key and each signature."""
    facts = stand_in("--latency", "1")
    kms = _open(facts)
    audit: AuditLog = recording()[0]
    signer = Signer.open(kms, facts["key_id"], audit)
    for _ in range(3):
        signer.self_test()
    kms.close()

    assert _counts(facts) == {"requests": 4, "signed": 3}


def test_its_quota_is_enforced(stand_in: StandIn) -> None:
    facts = stand_in("--quota", "1")
    kms = _open(facts)

    def sign_for_a_while() -> None:
        for _ in range(50):
            kms.sign_digest(facts["key_id"], os.urandom(32))

    with pytest.raises(BackendThrottledError):
        sign_for_a_while()
    kms.close()


@pytest.mark.parametrize(
    ("option", "error", "count"),
    [
        ("--throttles", BackendThrottledError, "throttled"),
        ("--errors", BackendUnavailableError, "failed"),
    ],
)
def test_its_failures_are_those_of_kms(
    stand_in: StandIn, option: str, error: type[BackendError], count: str
) -> None:
    facts = stand_in(option, "1")
    kms = _open(facts)

    with pytest.raises(error):
        kms.sign_digest(facts["key_id"], os.urandom(32))
    kms.close()
    assert _counts(facts) == {"requests": 1, count: 1}
