"""``Sign`` as boto3 sends it, and the load on KMS: retries, breaker, rate."""

import hashlib
import hmac
import json
import os
import random
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backends.aws_kms.backend import KMSBackend, SigningClient
from backends.aws_kms.client import build_client, read_client_parts
from backends.circuit_breaker import RETRY_SECONDS
from backends.kms_retries import TokenBucket
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Call, Exchange, Reply
from signer.errors import (
    AccessDeniedError,
    BackendThrottledError,
    BackendUnavailableError,
)
from signer.ports.key_backend import DeviceSignature, KeyId
from tests.fixtures.kms import AWS
from tests.fixtures.tls_server import self_signed
from tests.support.waiting import Timer, eventually


DIGEST = bytes(range(32))

_SOURCE = """
import json, pathlib
count = pathlib.Path({count!r})
number = len(count.read_text()) if count.exists() else 0
count.write_text("x" * (number + 1))
made = {{
    "Version": 1,
    "AccessKeyId": f"AKIA{{number}}",
    "SecretAccessKey": f"secret-{{number}}",
    "SessionToken": f"token-{{number}}",
    "Expiration": {expiration!r},
}}
print(json.dumps(made))
"""


def _signature(call: Call, secret: str) -> str:
    """Return the SigV4 signature of *call*, by AWS's documentation and the stdlib."""
    authorization = call.headers["authorization"]
    parts = dict(
        part.split("=", 1)
        for part in authorization.removeprefix("AWS4-HMAC-SHA256 ").split(", ")
    )
    names = parts["SignedHeaders"].split(";")
    headers = "".join(f"{name}:{call.headers[name].strip()}\n" for name in names)
    request = "\n".join(
        [
            "POST",
            "/",
            "",
            headers,
            ";".join(names),
            hashlib.sha256(call.body).hexdigest(),
        ]
    )
    _, *scope = parts["Credential"].split("/")
    text = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            call.headers["x-amz-date"],
            "/".join(scope),
            hashlib.sha256(request.encode()).hexdigest(),
        ]
    )
    key = f"AWS4{secret}".encode()
    for part in (*scope, text):
        key = hmac.digest(key, part.encode(), "sha256")
    return f"{parts['Signature']} {key.hex()}"


def test_requests_are_signed(aws: AWS) -> None:
    """The signature covers body, host, operation and time."""
    aws.sign()

    call = aws.emulator.journal[-1]
    sent, calculated = _signature(call, "testing").split()
    assert sent == calculated
    covered = call.headers["authorization"].partition("SignedHeaders=")[2]
    assert {"host", "x-amz-date", "x-amz-target"} <= set(
        covered.partition(",")[0].split(";")
    )
    sent_at = datetime.fromisoformat(call.headers["x-amz-date"])
    assert abs(datetime.now(UTC) - sent_at) < timedelta(minutes=1)


def test_cloudtrail_sees_the_same_client(aws: AWS) -> None:
    """User agent, content type and scope are those of a call of boto3."""
    aws.backend.public_key(aws.key)
    aws.sign()
    theirs, ours = list(aws.emulator.journal)[-2:]

    assert ours.region == theirs.region
    for name in ("user-agent", "content-type", "host"):
        assert ours.headers[name] == theirs.headers[name]


@pytest.mark.parametrize(
    ("region", "environment", "url"),
    [
        ("eu-central-1", {}, "https://kms.eu-central-1.amazonaws.com/"),
        ("cn-north-1", {}, "https://kms.cn-north-1.amazonaws.com.cn/"),
        (
            "us-east-1",
            {"AWS_USE_FIPS_ENDPOINT": "true"},
            "https://kms-fips.us-east-1.amazonaws.com/",
        ),
        (
            "us-east-1",
            {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
            "https://kms.us-east-1.api.aws/",
        ),
    ],
)
def test_botocore_chooses_the_endpoint(
    aws_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    region: str,
    environment: Mapping[str, str],
    url: str,
) -> None:
    """Partition, FIPS and dual stack are its rules; no credentials are needed."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert read_client_parts(build_client(region, None, 3, 9_000, 1)).url == url


def test_a_dry_run_leaves_no_trace(aws: AWS) -> None:
    """Nothing is sent, and the client works as before."""
    client = build_client("eu-central-1", aws.emulator.endpoint, 1, 9_000, 1)
    read_client_parts(client)
    read_client_parts(client)
    assert aws.wire() == []

    assert client.get_public_key(KeyId=aws.key)["KeyId"] == aws.key
    client.close()


def test_requests_go_through_the_proxy(
    aws: AWS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator is the proxy, for a host that does not exist."""
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTP_PROXY", aws.emulator.endpoint)

    assert aws.open(endpoint="http://kms.invalid").sign_digest(aws.key, DIGEST).der
    assert aws.emulator.journal[-1].headers["host"] == "kms.invalid"


@pytest.fixture
def tls_emulator(kms_emulator: KMSEmulator, tmp_path: Path) -> Iterator[str]:
    """The URL of an emulator with a certificate that ``fullchain.pem`` has."""
    self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "fullchain.pem", tmp_path / "privkey.pem")
    emulator = KMSEmulator()
    emulator._server.socket = context.wrap_socket(
        emulator._server.socket, server_side=True
    )
    with emulator:
        yield emulator.endpoint.replace("http:", "https:")


@pytest.mark.parametrize("is_trusted", [True, False])
def test_certificates_are_verified(
    aws: AWS,
    tls_emulator: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_trusted: bool,
) -> None:
    """With the authorities of AWS_CA_BUNDLE."""
    if is_trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "fullchain.pem"))
    kms = aws.open(endpoint=tls_emulator)

    if is_trusted:
        assert kms.sign_digest(aws.key, DIGEST).der
    else:
        with pytest.raises(BackendUnavailableError, match="SSLError"):
            kms.sign_digest(aws.key, DIGEST)


@pytest.fixture
def expiring_credentials(
    aws_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source of credentials that expire in a minute: botocore refreshes them."""
    source = tmp_path / "source.py"
    expiration = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    source.write_text(
        _SOURCE.format(count=str(tmp_path / "count"), expiration=expiration)
    )
    configuration = tmp_path / "config"
    configuration.write_text(
        f"[default]\ncredential_process = {sys.executable} {source}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(configuration))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def test_credentials_are_refreshed_between_signatures(
    aws: AWS, expiring_credentials: None
) -> None:
    """K19: each request is signed with the credentials of its moment."""
    kms = aws.open()
    for _ in range(3):
        kms.sign_digest(aws.key, DIGEST)

    tokens = []
    for call in list(aws.emulator.journal)[-3:]:
        token = call.headers["x-amz-security-token"]
        number = token.removeprefix("token-")
        sent, calculated = _signature(call, f"secret-{number}").split()
        assert sent == calculated
        assert f"Credential=AKIA{number}/" in call.headers["authorization"]
        tokens.append(token)
    assert len(set(tokens)) == 3


def test_expired_credentials_are_replaced_after_the_error(
    aws: AWS, expiring_credentials: None
) -> None:
    aws.faults.on("Sign", faults.expired_token())
    kms = aws.open()

    with pytest.raises(AccessDeniedError, match="ExpiredTokenException"):
        kms.sign_digest(aws.key, DIGEST)
    assert kms.sign_digest(aws.key, DIGEST).der


def test_a_wrong_clock_is_an_error(aws: AWS) -> None:
    """KMS refuses times that are 5 minutes off; another attempt would not help."""
    aws.faults.always(
        "Sign",
        faults.refuse(
            "InvalidSignatureException",
            "Signature expired: 20260101T000000Z is earlier",
        ),
    )

    with pytest.raises(AccessDeniedError, match="InvalidSignatureException"):
        aws.open().sign_digest(aws.key, DIGEST)
    assert aws.wire() == ["Sign"]


def test_a_body_is_json_of_strings(aws: AWS) -> None:
    """Any digest is encoded."""
    for digest in (bytes(32), b"\xff" * 32, os.urandom(32)):
        aws.backend.sign_digest(aws.key, digest)

        members = json.loads(aws.emulator.journal[-1].body)
        assert {type(value) for value in members.values()} == {str}


BURST_OF_RETRIES = 100

OpenSigning = Callable[..., SigningClient]


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def open_signing(kms_emulator: KMSEmulator, timer: Timer) -> Iterator[OpenSigning]:
    """Return a function that opens a client whose pauses move its timer."""
    clients = []

    def sleep(seconds: float) -> None:
        timer.now += seconds

    def open_signing(
        per_second: float = 0, attempts: int = 10, timeout_ms: int = 9_000
    ) -> SigningClient:
        client = build_client(
            kms_emulator.region, kms_emulator.endpoint, attempts, timeout_ms, 16
        )
        clients.append(client)
        return SigningClient(client, per_second, timer=timer, sleep=sleep)

    yield open_signing
    for client in clients:
        client.close()


def test_retries_have_a_budget(aws: AWS, open_signing: OpenSigning) -> None:
    """G17: a KMS that throttles everything gets one request per call in the end."""
    aws.faults.always("Sign", faults.throttle())
    signing = open_signing()
    for _ in range(30):
        with pytest.raises(BackendThrottledError):
            signing.sign(aws.key, DIGEST)

    assert len(aws.wire()) == 30 + BURST_OF_RETRIES


def test_signatures_earn_retries(aws: AWS, open_signing: OpenSigning) -> None:
    """Six for ten, so that a third of the requests may fail for ever."""
    aws.faults.always("Sign", faults.throttle())
    signing = open_signing()
    for _ in range(12):
        with pytest.raises(BackendThrottledError):
            signing.sign(aws.key, DIGEST)
    aws.faults.clear()
    for _ in range(10):
        signing.sign(aws.key, DIGEST)
    aws.faults.always("Sign", faults.throttle())
    before = len(aws.wire())
    for _ in range(3):
        with pytest.raises(BackendThrottledError):
            signing.sign(aws.key, DIGEST)

    assert len(aws.wire()) - before == 3 + 6


def test_an_error_counts_its_requests(aws: AWS, open_signing: OpenSigning) -> None:
    """For the audit record, which explains the requests of CloudTrail."""
    aws.faults.always("Sign", faults.kms_internal())

    with pytest.raises(BackendUnavailableError) as error:
        open_signing(attempts=4).sign(aws.key, DIGEST)

    assert error.value.attempts == 4
    assert error.value.request_id


def test_pauses_grow(aws: AWS, open_signing: OpenSigning, timer: Timer) -> None:
    """Nine pauses of at most 0.1 s to 1 s, and together at most the deadline."""
    aws.faults.always("Sign", faults.throttle())
    signing = open_signing()
    taken = []
    for _ in range(8):
        started = timer.now
        with pytest.raises(BackendThrottledError):
            signing.sign(aws.key, DIGEST)
        taken.append(timer.now - started)

    assert max(taken) <= 5
    assert 1 <= sum(taken) / len(taken) <= 4


def test_the_named_pause_is_kept(
    aws: AWS, open_signing: OpenSigning, timer: Timer
) -> None:
    aws.faults.on("Sign", faults.retry_after(2_500))
    started = timer.now

    assert open_signing().sign(aws.key, DIGEST).attempts == 2
    assert timer.now - started == pytest.approx(2.5)


def test_a_frozen_kms_opens_the_breaker(
    aws: AWS, open_signing: OpenSigning, timer: Timer
) -> None:
    """
    G17: then calls fail at once, and a second later one tries.

    Its answer closes the breaker.
    """
    aws.faults.always("Sign", faults.hang())
    signing = open_signing(attempts=1, timeout_ms=500)
    for _ in range(3):
        with pytest.raises(BackendUnavailableError) as error:
            signing.sign(aws.key, DIGEST)
    assert aws.wire() == ["Sign"]
    assert error.value.attempts == 0
    assert "does not answer" in str(error.value)

    timer.now += RETRY_SECONDS
    with pytest.raises(BackendUnavailableError):
        signing.sign(aws.key, DIGEST)
    assert aws.wire() == ["Sign"] * 2

    aws.faults.clear()
    with pytest.raises(BackendUnavailableError):
        signing.sign(aws.key, DIGEST)
    timer.now += RETRY_SECONDS
    signing.sign(aws.key, DIGEST)
    signing.sign(aws.key, DIGEST)
    assert aws.wire() == ["Sign"] * 4


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.throttle(), id="throttle"),
        pytest.param(faults.kms_internal(), id="internal"),
    ],
)
def test_an_error_of_kms_closes_the_breaker(
    aws: AWS,
    open_signing: OpenSigning,
    timer: Timer,
    fault: Callable[[Exchange], Reply | None],
) -> None:
    """KMS answers, if with an error."""
    aws.faults.on("Sign", faults.hang())
    aws.faults.on("Sign", fault)
    signing = open_signing(attempts=1, timeout_ms=500)
    with pytest.raises(BackendUnavailableError):
        signing.sign(aws.key, DIGEST)
    timer.now += RETRY_SECONDS
    with pytest.raises((BackendThrottledError, BackendUnavailableError)):
        signing.sign(aws.key, DIGEST)

    assert signing.sign(aws.key, DIGEST).der


def test_one_lost_connection_opens_nothing(
    aws: AWS, open_signing: OpenSigning, timer: Timer
) -> None:
    """KMS answered another call while the first one waited."""
    aws.faults.on("Sign", faults.hang())
    signing = open_signing(attempts=1, timeout_ms=1_500)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(signing.sign, aws.key, DIGEST)
        assert eventually(lambda: aws.wire() == ["Sign"])
        timer.now += 0.1
        signing.sign(aws.key, DIGEST)
        with pytest.raises(BackendUnavailableError):
            lost.result(20)

    assert signing.sign(aws.key, DIGEST).der


def test_the_queue_for_turns_is_bounded(aws: AWS, open_signing: OpenSigning) -> None:
    """A call whose turn comes too late is refused, and nothing is sent."""
    signing = open_signing(per_second=1, attempts=1, timeout_ms=2_000)
    signing.sign(aws.key, DIGEST)

    with pytest.raises(BackendThrottledError, match="wait for KMS") as error:
        signing.sign(aws.key, DIGEST)

    assert error.value.attempts == 0
    assert error.value.retryable
    assert aws.wire() == ["Sign"]


def test_calls_wait_for_their_turns(
    open_signing: OpenSigning, kms_key: KeyId, timer: Timer
) -> None:
    """Retries need turns as well."""
    signing = open_signing(per_second=5)
    started = timer.now
    for _ in range(11):
        signing.sign(kms_key, DIGEST)

    assert timer.now - started == pytest.approx(2.0)


def test_a_brown_out_costs_time_and_no_signature(aws: AWS) -> None:
    """G16: 30 % throttles, 5 % server errors, and 1 answer in 100 takes 2 s."""
    dice = random.Random(5)
    lock = threading.Lock()

    def brown_out(exchange: Exchange) -> Reply | None:
        with lock:
            drawn = dice.random()
        if drawn < 0.30:
            return faults.throttle()(exchange)
        if drawn < 0.35:
            return faults.kms_internal()(exchange)
        if drawn < 0.36:
            return faults.slow(2.0)(exchange)
        return exchange.respond(None)

    aws.faults.always("Sign", brown_out)
    client = build_client(aws.emulator.region, aws.emulator.endpoint, 10, 9_000, 64)
    kms = KMSBackend(client, per_second=900)

    def sign(_: int) -> tuple[float, DeviceSignature]:
        started = time.monotonic()
        signature = kms.sign_digest(aws.key, DIGEST)
        return time.monotonic() - started, signature

    with ThreadPoolExecutor(32) as pool:
        taken, made = zip(*pool.map(sign, range(200)), strict=True)
    kms.close()

    assert max(taken) < 10
    assert sum(each.attempts for each in made) == len(aws.wire())
    # A share of 0.65 succeeds: no client needs fewer than 1 / 0.65 = 1.54 on average.
    assert len(aws.wire()) / 200 < 1.75


def test_an_exceeded_quota_is_no_error(aws: AWS) -> None:
    """K11: of a quota below the rate that the settings allow."""
    quota, lock, throttled = TokenBucket(100), threading.Lock(), []

    def limited(exchange: Exchange) -> Reply | None:
        with lock:
            has_turn = quota.reserve(0.0) is not None
        if has_turn:
            return exchange.respond(None)
        throttled.append(exchange)
        return faults.throttle()(exchange)

    aws.faults.always("Sign", limited)
    client = build_client(aws.emulator.region, aws.emulator.endpoint, 10, 9_000, 64)
    kms = KMSBackend(client, per_second=400)

    def sign(_: int) -> bool:
        try:
            return bool(kms.sign_digest(aws.key, DIGEST).der)
        except BackendThrottledError:
            return False

    with ThreadPoolExecutor(32) as pool:
        made = list(pool.map(sign, range(300)))
    kms.close()

    assert throttled
    assert made.count(False) <= 3


def test_concurrency_is_a_hint_for_the_number_of_threads(aws: AWS) -> None:
    """It grows with use, up to the number of connections."""
    client = build_client(aws.emulator.region, aws.emulator.endpoint, 3, 9_000, 12)
    kms = KMSBackend(client)
    first = kms.concurrency
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: kms.sign_digest(aws.key, DIGEST), range(200)))
    kms.close()

    assert first == 8
    assert 8 <= kms.concurrency <= 12
