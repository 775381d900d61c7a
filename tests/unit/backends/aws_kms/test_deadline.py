"""The deadline of a KMS call, against services that take their time."""

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

from backends.aws_kms.deadline import Deadline, _longest_pause
from dev import kms_faults as faults
from dev.kms_wire import Fault, Faults
from signer.errors import BackendThrottledError, BackendUnavailableError
from signer.ports import KeyId
from tests.fixtures.kms import OpenKMS


DIGEST = bytes(range(32))
# What the machine needs for everything else, a busy neighbour included.  Without a
# deadline the same calls take half a minute and more.
SLACK = 10.0


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.hang(), id="hang"),
        pytest.param(faults.stop_after_headers(), id="stop-after-headers"),
        pytest.param(faults.trickle(0.05), id="trickle"),
    ],
)
@pytest.mark.parametrize(("attempts", "timeout_ms"), [(1, 800), (3, 1500)])
def test_no_service_outlives_the_deadline(
    *,
    open_kms: OpenKMS,
    kms_key: KeyId,
    kms_faults: Faults,
    fault: Fault,
    attempts: int,
    timeout_ms: int,
) -> None:
    """K6: a KMS that hangs, stops half-way or trickles costs KMS_TIMEOUT_MS at most."""
    kms_faults.always("Sign", fault)
    kms = open_kms(max_retries=attempts, timeout_ms=timeout_ms)
    started = time.monotonic()

    with pytest.raises(BackendUnavailableError):
        kms.sign_digest(kms_key, DIGEST)

    assert time.monotonic() - started < timeout_ms / 1000 + SLACK


def test_hanging_is_retried_while_there_is_time(
    open_kms: OpenKMS, kms_key: KeyId, kms_faults: Faults
) -> None:
    """One lost packet does not fail a call: the next attempt signs."""
    kms_faults.on("Sign", faults.hang())
    kms = open_kms(max_retries=3, timeout_ms=4_000)

    assert kms.sign_digest(kms_key, DIGEST).der


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port whose queue is full: nobody accepts, and connecting takes for ever."""
    with ExitStack() as opened:
        server = opened.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = opened.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_a_port_that_never_accepts(
    open_kms: OpenKMS, kms_key: KeyId, deaf_port: int
) -> None:
    """K6: connecting is bounded too."""
    kms = open_kms(endpoint=f"http://127.0.0.1:{deaf_port}", timeout_ms=1_500)
    started = time.monotonic()

    with pytest.raises(BackendUnavailableError, match="ConnectTimeoutError"):
        kms.sign_digest(kms_key, DIGEST)

    assert time.monotonic() - started < 1.5 + SLACK


def test_a_closed_port(open_kms: OpenKMS, kms_key: KeyId) -> None:
    """A KMS that is not there is unavailability, and found out at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    kms = open_kms(endpoint=f"http://127.0.0.1:{port}")
    started = time.monotonic()

    with pytest.raises(BackendUnavailableError, match="EndpointConnectionError"):
        kms.sign_digest(kms_key, DIGEST)

    assert time.monotonic() - started < 9


def test_a_pause_that_does_not_fit_is_not_begun(
    open_kms: OpenKMS, kms_key: KeyId, kms_faults: Faults
) -> None:
    """A service that asks for 60 s gets its error passed on instead of a sleep."""
    kms_faults.always("Sign", faults.retry_after(60_000))
    kms = open_kms(max_retries=10, timeout_ms=3_000)
    started = time.monotonic()

    with pytest.raises(BackendThrottledError):
        kms.sign_digest(kms_key, DIGEST)

    assert time.monotonic() - started < 3 + SLACK


@pytest.mark.parametrize("seconds", [0.5, 1.9, 2.0, 9.0, 120.0])
@pytest.mark.parametrize("attempts", [1, 2, 3, 10])
def test_attempts_fit_into_the_total(seconds: float, attempts: int) -> None:
    """Two whole attempts and the longest pause fit, or there is one attempt only."""
    budget = Deadline(seconds, attempts)
    retries = attempts > 1 and seconds >= 2

    spent = 2 * budget.attempt + 1 if retries else budget.attempt

    assert spent == pytest.approx(seconds)
    assert 3 * budget.connect + budget.read == pytest.approx(budget.attempt)
    assert 0 < budget.connect <= 1
    assert budget.read >= budget.attempt / 2


@pytest.mark.parametrize("code", ["ThrottlingException", "KMSInternalException"])
@pytest.mark.parametrize("named", [None, "0", "1500", "90000", "soon", "-5"])
def test_botocore_never_pauses_longer_than_we_think(
    code: str, named: str | None
) -> None:
    """Should botocore change its back-off, this fails before a deadline does."""
    headers = {} if named is None else {"x-amz-retry-after": named}
    response: tuple[Any, Any] = (SimpleNamespace(headers=headers, status_code=400), {})
    unlucky = ExponentialBackoff(
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

        assert unlucky.delay_amount(context) <= _longest_pause(attempt, response)
