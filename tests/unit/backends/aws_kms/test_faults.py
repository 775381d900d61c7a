"""Failures of KMS: which are retried, how often, how long, and their errors."""

import logging
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from botocore import exceptions as botocore  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
from botocore.retries.standard import (  # type: ignore[import-untyped]
    ExponentialBackoff,
    RetryContext,
    RetryEventAdapter,
    ThrottlingErrorDetector,
)

from backends.aws_kms.client import Deadline, _longest_pause
from backends.aws_kms.errors import map_error, request_id
from dev import kms_faults as faults
from dev.kms_wire import Fault
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyUnusableError,
)
from tests.fixtures.kms import AWS


DIGEST = bytes(range(32))

ROLE = "refund-signer-role"
ENDPOINT = "https://kms.eu-central-1.amazonaws.com"
ARN = f"arn:aws:iam::123456789012:role/{ROLE}"
CANARIES = ("arn:aws", "123456789012", ROLE, "eu-central-1", "amazonaws", "hsm-fleet")

TRANSIENT = {
    "throttle": (faults.throttle(), BackendThrottledError),
    "HTTP 429": (faults.html(429), BackendThrottledError),
    "internal": (faults.kms_internal(), BackendUnavailableError),
    "dependency": (faults.dependency_timeout(), BackendUnavailableError),
    "unavailable": (faults.key_unavailable(), BackendUnavailableError),
    "HTTP 500": (faults.html(500), BackendUnavailableError),
    "HTTP 503": (faults.html(503), BackendUnavailableError),
    "lost reply": (faults.drop_reply(), BackendUnavailableError),
}
PERMANENT = {
    "access denied": (faults.access_denied(), AccessDeniedError),
    "expired": (faults.expired_token(), AccessDeniedError),
    "unrecognized": (faults.unrecognized_client(), AccessDeniedError),
    "HTTP 403": (faults.html(403), AccessDeniedError),
    "disabled": (faults.disabled(), KeyUnusableError),
    "pending deletion": (faults.pending_deletion(), KeyUnusableError),
    "key usage": (faults.invalid_key_usage(), KeyUnusableError),
    "not found": (faults.not_found(), KeyNotFoundError),
    "validation": (faults.refuse("ValidationException"), BackendError),
    "unknown": (faults.refuse("UnknownException"), BackendError),
    "HTTP 404": (faults.html(404), BackendError),
    "a list": (faults.body(b"[]"), BackendError),
    "code is an ARN": (faults.refuse(ARN, ARN), BackendError),
}


@pytest.mark.parametrize(
    ("fault", "error"), (TRANSIENT | PERMANENT).values(), ids=TRANSIENT | PERMANENT
)
def test_only_transient_faults_are_retried(
    aws: AWS, caplog: pytest.LogCaptureFixture, fault: Fault, error: type[BackendError]
) -> None:
    """
    K2, K3, K4: three attempts at most; the error says whether to try later.

    Neither it, its traceback and causes, nor a debug log contain text of AWS.
    """
    aws.faults.always("Sign", fault)
    caplog.set_level(logging.DEBUG)

    with pytest.raises(BackendError) as raised:
        aws.open().sign_digest(aws.key, DIGEST)

    is_transient = (fault, error) in TRANSIENT.values()
    assert type(raised.value) is error
    assert raised.value.retryable is is_transient
    assert aws.wire() == ["Sign"] * (3 if is_transient else 1)
    assert raised.value.__cause__ is raised.value.__context__ is None
    shown = [repr(raised.value), *traceback.format_exception(raised.value), caplog.text]
    endpoint = aws.emulator.endpoint.removeprefix("http://")
    for canary in (*CANARIES, aws.key, endpoint):
        assert canary not in "".join(shown)


def test_two_throttles_cost_two_attempts(aws: AWS) -> None:
    """K1: the third attempt makes the only signature."""
    aws.faults.on("Sign", faults.throttle(), times=2)
    signed = len(aws.emulator.trail)

    signature = aws.open().sign_digest(aws.key, DIGEST)

    assert aws.wire() == ["Sign"] * 3
    assert (signature.attempts, signature.throttled) == (3, 2)
    assert len(aws.emulator.trail) == signed + 1


def test_a_lost_reply_is_retried(aws: AWS) -> None:
    """K5: KMS signs again, which moves no money."""
    aws.faults.on("Sign", faults.drop_reply())
    signed = len(aws.emulator.trail)

    signature = aws.open().sign_digest(aws.key, DIGEST)

    assert len(aws.emulator.trail) == signed + 2
    assert aws.emulator.trail[-1].request_id == signature.request_id


@pytest.mark.parametrize(("configured", "attempts"), [(0, 1), (1, 1), (2, 2)])
def test_max_retries_counts_attempts(aws: AWS, configured: int, attempts: int) -> None:
    """KMS_MAX_RETRIES is the total number of attempts, and at least one."""
    aws.faults.always("Sign", faults.kms_internal())

    with pytest.raises(BackendUnavailableError):
        aws.open(max_retries=configured).sign_digest(aws.key, DIGEST)

    assert len(aws.wire()) == attempts


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.cut_off(), id="cut off"),
        pytest.param(faults.body(b"<html>"), id="html"),
        pytest.param(faults.body(b"{}"), id="empty"),
        pytest.param(faults.body(b'{"Signature": 5, "PublicKey": 5}'), id="number"),
        pytest.param(faults.body(b'{"Signature": "a", "PublicKey": "a"}'), id="text"),
        pytest.param(faults.body(b"\xff\xfe"), id="bytes"),
    ],
)
def test_malformed_responses_are_unavailability(aws: AWS, fault: Fault) -> None:
    """Truncated or invalid responses are retryable."""
    aws.faults.on("Sign", fault)
    aws.faults.on("GetPublicKey", fault)

    with pytest.raises(BackendUnavailableError):
        aws.sign()
    with pytest.raises(BackendUnavailableError):
        aws.backend.public_key(aws.key)


def test_missing_credentials_are_an_error(
    aws: AWS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K4: nothing is sent."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(AccessDeniedError, match="NoCredentialsError"):
        aws.open().sign_digest(aws.key, DIGEST)

    assert aws.wire() == []


def test_the_aws_libraries_do_not_log(
    aws: AWS, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if the root logger has the level DEBUG."""
    caplog.set_level(logging.DEBUG)

    aws.open().sign_digest(aws.key, DIGEST)

    vendors = ("boto3", "botocore", "urllib3")
    assert [r.name for r in caplog.records if r.name.startswith(vendors)] == []


def _client_error(code: object, status: int) -> botocore.ClientError:
    return botocore.ClientError(
        {
            "Error": {"Code": code, "Message": f"{ARN} at {ENDPOINT}"},
            "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": ARN},
        },
        "Sign",
    )


TRANSLATIONS: dict[str, tuple[Exception, type[BackendError]]] = {
    "no endpoint": (
        botocore.EndpointConnectionError(endpoint_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "connect timeout": (
        botocore.ConnectTimeoutError(endpoint_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "read timeout": (
        botocore.ReadTimeoutError(endpoint_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "closed": (
        botocore.ConnectionClosedError(endpoint_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "tls": (
        botocore.SSLError(endpoint_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "proxy": (
        botocore.ProxyConnectionError(proxy_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "http client": (botocore.HTTPClientError(error=ARN), BackendUnavailableError),
    "credential source": (
        botocore.CredentialRetrievalError(provider=ROLE, error_msg=ARN),
        BackendUnavailableError,
    ),
    "metadata service": (
        botocore.MetadataRetrievalError(error_msg=ARN),
        BackendUnavailableError,
    ),
    "parser": (ResponseParserError(ARN), BackendUnavailableError),
    "no credentials": (botocore.NoCredentialsError(), AccessDeniedError),
    "half of the credentials": (
        botocore.PartialCredentialsError(provider=ROLE, cred_var=ARN),
        AccessDeniedError,
    ),
    "no profile": (botocore.ProfileNotFound(profile=ROLE), AccessDeniedError),
    "single sign-on": (botocore.UnauthorizedSSOTokenError(), AccessDeniedError),
    "parameters": (botocore.ParamValidationError(report=ARN), BackendError),
    "anything else": (RuntimeError(ARN), BackendError),
    "AssumeRole refused": (_client_error("AccessDenied", 403), AccessDeniedError),
    "throttled": (
        _client_error("TooManyRequestsException", 429),
        BackendThrottledError,
    ),
    "unknown, 401": (_client_error("Unknown", 401), AccessDeniedError),
    "unknown, 500": (_client_error("Unknown", 500), BackendUnavailableError),
    "unknown, 418": (_client_error(ROLE, 418), BackendError),
    "a list": (_client_error([ARN], 499), BackendError),
    "no answer at all": (botocore.ClientError({}, "Sign"), BackendError),
}


@pytest.mark.parametrize(("theirs", "ours"), TRANSLATIONS.values(), ids=TRANSLATIONS)
def test_every_error_of_boto3_is_mapped(
    theirs: Exception, ours: type[BackendError]
) -> None:
    """The class says whether to retry, and the text is omitted."""
    error = map_error("Sign", theirs)

    assert type(error) is ours
    assert not [canary for canary in CANARIES if canary in str(error)]


def test_an_error_has_code_status_and_request_id() -> None:
    error = botocore.ClientError(
        {
            "Error": {"Code": "DisabledException", "Message": ARN},
            "ResponseMetadata": {
                "HTTPStatusCode": 409,
                "RequestId": "8d0b35e0-46cf-48b9-be99-bf2ebc9ab9fb",
            },
        },
        "Sign",
    )

    assert str(map_error("Sign", error)) == (
        "KMS Sign failed: DisabledException, HTTP 409,"
        " request 8d0b35e0-46cf-48b9-be99-bf2ebc9ab9fb"
    )


def test_a_request_id_is_a_uuid() -> None:
    """Any other text is not passed on."""
    assert request_id({"RequestId": ARN}) is None
    assert request_id({}) is None


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
def test_a_slow_service_does_not_exceed_the_deadline(aws: AWS, fault: Fault) -> None:
    """K6: a KMS that hangs, stops or sends slowly costs KMS_TIMEOUT_MS at most."""
    aws.faults.always("Sign", fault)
    kms = aws.open(max_retries=3, timeout_ms=900)
    started = time.monotonic()

    with pytest.raises(BackendUnavailableError):
        kms.sign_digest(aws.key, DIGEST)

    assert time.monotonic() - started < 0.9 + SLACK


def test_a_hanging_attempt_is_retried(aws: AWS) -> None:
    """The next attempt within the deadline signs."""
    aws.faults.on("Sign", faults.hang())
    kms = aws.open(max_retries=3, timeout_ms=5_000)

    assert kms.sign_digest(aws.key, DIGEST).der


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


def test_connecting_has_a_deadline(aws: AWS, full_port: int) -> None:
    """K6: and its error names the reason."""
    kms = aws.open(endpoint=f"http://127.0.0.1:{full_port}", timeout_ms=500)
    started = time.monotonic()

    with pytest.raises(BackendUnavailableError, match="ConnectTimeoutError"):
        kms.sign_digest(aws.key, DIGEST)

    assert time.monotonic() - started < 0.5 + SLACK


def test_a_closed_port_is_unavailability(aws: AWS) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(BackendUnavailableError, match="EndpointConnectionError"):
        aws.open(endpoint=f"http://127.0.0.1:{port}").sign_digest(aws.key, DIGEST)


def test_a_pause_beyond_the_deadline_is_an_error(aws: AWS) -> None:
    """If the service requests a pause of 60 s, its error is raised at once."""
    aws.faults.always("Sign", faults.retry_after(60_000))
    kms = aws.open(max_retries=10, timeout_ms=3_000)
    started = time.monotonic()

    with pytest.raises(BackendThrottledError):
        kms.sign_digest(aws.key, DIGEST)

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
