"""The deadline of a KMS call to slow services."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.retries.standard import (  # type: ignore[import-untyped]
    ExponentialBackoff,
    RetryContext,
    RetryEventAdapter,
    ThrottlingErrorDetector,
)

from backends.aws_kms.client import Deadline, _longest_pause
from dev import kms_faults as faults
from dev.kms_wire import Fault, Faults
from signer.errors import BackendThrottledError, BackendUnavailableError
from signer.ports.key_backend import KeyId
from tests.fixtures.kms import OpenKMS


DIGEST = bytes(range(32))
# The machine may be busy.  Without a deadline the calls take 30 s and more.
SLACK = 10.0


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.hang(), id="hang"),
        pytest.param(faults.stop_after_headers(), id="stop-after-headers"),
        pytest.param(faults.trickle(0.05), id="trickle"),
    ],
)
def test_a_slow_service_does_not_exceed_the_deadline(
    *,
    open_kms: OpenKMS,
    kms_key: KeyId,
    kms_faults: Faults,
    fault: Fault,
) -> None:
    """K6: a KMS that hangs, stops or sends slowly costs KMS_TIMEOUT_MS at most."""
    kms_faults.always("Sign", fault)
    kms = open_kms(max_retries=3, timeout_ms=900)
    started = time.monotonic()

    with pytest.raises(BackendUnavailableError):
        kms.sign_digest(kms_key, DIGEST)

    assert time.monotonic() - started < 0.9 + SLACK


def test_a_hanging_attempt_is_retried(
    open_kms: OpenKMS, kms_key: KeyId, kms_faults: Faults
) -> None:
    """The next attempt within the deadline signs."""
    kms_faults.on("Sign", faults.hang())
    kms = open_kms(max_retries=3, timeout_ms=5_000)

    assert kms.sign_digest(kms_key, DIGEST).der


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose backlog is full, so that connecting never ends."""
    with ExitStack() as opened:
        server = opened.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = opened.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_connecting_has_a_deadline(
    open_kms: OpenKMS, kms_key: KeyId, full_port: int
) -> None:
    """K6: and its error names the reason."""
    kms = open_kms(endpoint=f"http://127.0.0.1:{full_port}", timeout_ms=500)
    started = time.monotonic()

    with pytest.raises(BackendUnavailableError, match="ConnectTimeoutError"):
        kms.sign_digest(kms_key, DIGEST)

    assert time.monotonic() - started < 0.5 + SLACK


def test_a_closed_port_is_unavailability(open_kms: OpenKMS, kms_key: KeyId) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(BackendUnavailableError, match="EndpointConnectionError"):
        open_kms(endpoint=f"http://127.0.0.1:{port}").sign_digest(kms_key, DIGEST)


def test_a_pause_beyond_the_deadline_is_an_error(
    open_kms: OpenKMS, kms_key: KeyId, kms_faults: Faults
) -> None:
    """If the service requests a pause of 60 s, its error is raised at once."""
    kms_faults.always("Sign", faults.retry_after(60_000))
    kms = open_kms(max_retries=10, timeout_ms=3_000)
    started = time.monotonic()

    with pytest.raises(BackendThrottledError):
        kms.sign_digest(kms_key, DIGEST)

    assert time.monotonic() - started < 3 + SLACK


@pytest.mark.parametrize("seconds", [0.5, 1.9, 2.0, 9.0, 120.0])
@pytest.mark.parametrize("attempts", [1, 2, 3, 10])
def test_attempts_fit_into_the_deadline(seconds: float, attempts: int) -> None:
    """Two attempts and the longest pause fit, or a quarter of it and one attempt."""
    budget = Deadline(seconds, attempts)
    retries = attempts > 1 and seconds >= 2

    before = budget.attempt + 1 if retries else seconds / 4

    assert before + budget.attempt == pytest.approx(seconds)
    assert budget.patience == pytest.approx(before)
    assert 3 * budget.connect + budget.read == pytest.approx(budget.attempt)
    assert 0 < budget.connect <= 1
    assert budget.read >= budget.attempt / 2


@pytest.mark.parametrize("code", ["ThrottlingException", "KMSInternalException"])
@pytest.mark.parametrize("named", [None, "0", "1500", "90000", "soon", "-5"])
def test_botocore_pauses_no_longer_than_calculated(
    code: str, named: str | None
) -> None:
    """A change of botocore's back-off must not break the deadline."""
    headers = {} if named is None else {"x-amz-retry-after": named}
    response: tuple[Any, Any] = (SimpleNamespace(headers=headers, status_code=400), {})
    longest = ExponentialBackoff(
        random=lambda: 1.0,
        service_name="kms",
        throttling_detector=ThrottlingErrorDetector(RetryEventAdapter()),
    )
    for attempt in range(1, 11):
        context = RetryContext(
            attempt_number=attempt,
            http_response=response[0],
            parsed_response={"Error": {"Code": code}},
        )

        assert longest.delay_amount(context) <= _longest_pause(attempt, response)
