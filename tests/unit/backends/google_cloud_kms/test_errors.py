"""Errors and damaged answers of Google Cloud KMS, and slow ones."""

import json
import time
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backends.google_cloud_kms.answers import crc32c
from backends.google_cloud_kms.backend import GoogleCloudKMSBackend
from dev import google_kms_faults as google
from dev import kms_faults as faults
from dev.google_kms_emulator import PUBLIC_KEY, RING, SIGN, GoogleKMSEmulator
from dev.google_kms_keys import checksum
from dev.kms_wire import Fault, Reply
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    EncodingError,
    KeyNotFoundError,
    KeyUnusableError,
    SigningError,
)
from signer.keys.signer import Signer
from signer.ports.key_backend import KeyId
from tests.fixtures.google_kms import CloudKMS
from tests.support.devices import recording
from tests.support.waiting import eventually


DIGEST = bytes(range(32))


def _sign_calls(emulator: GoogleKMSEmulator) -> int:
    return sum(call.operation == SIGN for call in list(emulator.journal))


STATES = ("DISABLED", "DESTROY_SCHEDULED", "DESTROYED", "PENDING_GENERATION")


@pytest.mark.parametrize("state", STATES)
def test_only_an_enabled_version_is_used(cloud: CloudKMS, state: str) -> None:
    name = KeyId(cloud.emulator.create_version())
    cloud.emulator.set_state(name, state)

    for ask in (
        lambda: cloud.backend.resolve(name),
        lambda: cloud.backend.sign_digest(name, DIGEST),
    ):
        with pytest.raises(KeyUnusableError, match="FAILED_PRECONDITION") as caught:
            ask()
        assert name not in str(caught.value)
        assert caught.value.attempts == 1


ERRORS: dict[str, tuple[Fault, type[BackendError], int]] = {
    "quota": (google.quota_exceeded(), BackendThrottledError, 3),
    "quota, with a pause": (google.quota_exceeded(0.05), BackendThrottledError, 3),
    "quota, with a long pause": (google.quota_exceeded(3600), BackendThrottledError, 1),
    "internal": (google.internal(), BackendUnavailableError, 3),
    "unavailable": (google.unavailable(), BackendUnavailableError, 3),
    "deadline": (google.refuse("DEADLINE_EXCEEDED"), BackendUnavailableError, 3),
    "denied": (google.permission_denied(), AccessDeniedError, 1),
    "invalid": (google.refuse("INVALID_ARGUMENT"), BackendError, 1),
    "not found": (google.refuse("NOT_FOUND"), KeyNotFoundError, 1),
    "a proxy's 502": (faults.html(502), BackendUnavailableError, 3),
    "a proxy's 403": (faults.html(403), AccessDeniedError, 1),
    "a proxy's 429": (faults.html(429), BackendThrottledError, 3),
    "a proxy's 404": (faults.html(404), BackendError, 1),
    "a redirect": (faults.html(302), BackendError, 1),
    "cut off": (faults.cut_off(), BackendUnavailableError, 3),
    "lost reply": (faults.drop_reply(), BackendUnavailableError, 3),
}


@pytest.mark.parametrize(("fault", "error", "attempts"), ERRORS.values(), ids=ERRORS)
def test_errors_are_mapped_and_repeated(
    cloud: CloudKMS, fault: Fault, error: type[BackendError], attempts: int
) -> None:
    """At most three attempts; none of Google's words reach the error."""
    cloud.faults.always(SIGN, fault)
    before = _sign_calls(cloud.emulator)

    with pytest.raises(BackendError) as caught:
        cloud.sign()

    assert type(caught.value) is error
    assert caught.value.attempts == attempts
    assert _sign_calls(cloud.emulator) - before == attempts
    is_throttled = error is BackendThrottledError
    assert caught.value.throttled == (attempts if is_throttled else 0)
    chain = [str(caught.value), repr(caught.value.__cause__)]
    for word in ("projects/", "example", "serviceaccount", "hsm-pool", "quota", "html"):
        assert word not in " ".join(chain)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_an_error_names_status_and_reason(cloud: CloudKMS) -> None:
    cloud.faults.always(SIGN, google.quota_exceeded())

    with pytest.raises(BackendThrottledError) as caught:
        cloud.sign()

    assert str(caught.value) == (
        "Cloud KMS AsymmetricSign failed: RESOURCE_EXHAUSTED RATE_LIMIT_EXCEEDED,"
        " HTTP 429"
    )


@pytest.mark.parametrize(
    "body",
    [
        {"error": "x"},
        {"error": {"status": ["x"], "details": "y"}},
        {"error": {"status": "UNAVAILABLE", "details": [1, {"retryDelay": [1]}]}},
        {"error": {"status": "SECRET", "details": [{"violations": [1, {"type": 2}]}]}},
        {"error": {"status": "ABORTED", "details": [{"violations": "x"}]}},
        [],
        1,
    ],
)
def test_strange_errors_are_errors_of_ours(cloud: CloudKMS, body: object) -> None:
    reply = Reply(json.dumps(body).encode(), 503)
    cloud.faults.on(SIGN, lambda _: reply)

    assert cloud.sign().attempts == 2


def test_the_checksum_is_crc32c() -> None:
    """The examples of RFC 3720, appendix B.4: 32 bytes of 0, of 255, and ascending."""
    given = [crc32c(bytes(32)), crc32c(b"\xff" * 32), crc32c(bytes(range(32)))]

    assert given == [0x8A9136AA, 0x62A8AB43, 0x46DD794E]


DAMAGED: dict[str, Fault] = {
    "signature checksum": google.altered(signatureCrc32c="1"),
    "no signature checksum": google.altered(signatureCrc32c=None),
    "signature checksum is a number": google.altered(signatureCrc32c=1),
    "digest not verified": google.altered(verifiedDigestCrc32c=False),
    "digest perhaps verified": google.altered(verifiedDigestCrc32c=None),
    "digest verified in words": google.altered(verifiedDigestCrc32c="true"),
    "no signature": google.altered(signature=None),
    "signature is a list": google.altered(signature=["x"]),
    "signature is not base64": google.altered(signature="***"),
    "no JSON": faults.body(b"{"),
    "JSON of another type": faults.body(b"[1]"),
    "deep JSON": faults.body(b"[" * 20_000),
    "empty": faults.body(b""),
}


@pytest.mark.parametrize("fault", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_answer_is_asked_for_again(cloud: CloudKMS, fault: Fault) -> None:
    """As Google asks of clients: discard it, and repeat a limited number of times."""
    cloud.faults.on(SIGN, fault)
    repeated = cloud.sign()
    cloud.faults.on(SIGN, fault, times=3)

    with pytest.raises(BackendUnavailableError, match="damaged") as caught:
        cloud.sign()

    assert repeated.attempts == 2
    assert caught.value.attempts == 3


WRONG: dict[str, tuple[Fault, type[SigningError]]] = {
    "another version": (
        google.altered(name=f"{RING}/cryptoKeys/refunds/cryptoKeyVersions/77"),
        BackendError,
    ),
    "no name": (google.altered(name=None), BackendError),
    "software": (google.altered(protectionLevel="SOFTWARE"), KeyUnusableError),
    "no protection level": (google.altered(protectionLevel=None), KeyUnusableError),
}


@pytest.mark.parametrize("operation", [SIGN, PUBLIC_KEY])
@pytest.mark.parametrize(("fault", "error"), WRONG.values(), ids=WRONG)
def test_an_answer_of_another_key_is_refused(
    cloud: CloudKMS, operation: str, fault: Fault, error: type[SigningError]
) -> None:
    """Once: the same request would be answered in the same way."""
    cloud.faults.on(operation, fault)
    ask = (
        cloud.sign
        if operation == SIGN
        else (lambda: cloud.backend.public_key(cloud.key))
    )

    with pytest.raises(error) as caught:
        ask()

    assert type(caught.value) is error
    assert cloud.key not in str(caught.value)


def _pem(curve: ec.EllipticCurve) -> str:
    public = ec.generate_private_key(curve).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_damaged_public_key_is_asked_for_again(cloud: CloudKMS) -> None:
    expected = cloud.backend.public_key(cloud.key)
    for fault in (
        google.altered(pem=_pem(ec.SECP256K1())),
        google.altered(pem=None),
        google.altered(pem=7),
        google.altered(pemCrc32c=None),
    ):
        cloud.faults.on(PUBLIC_KEY, fault)

        assert cloud.backend.public_key(cloud.key) == expected


PEMS = {
    "empty": "",
    "no key": "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
    "damaged": _pem(ec.SECP256K1()).replace("M", "", 1),
    "truncated": _pem(ec.SECP256K1())[:80],
    "of another kind": _pem(ec.SECP256K1()).replace("PUBLIC", "PRIVATE"),
    "no text": "\ud800",
}


@pytest.mark.parametrize("text", PEMS.values(), ids=PEMS)
def test_a_pem_that_is_no_public_key_is_refused(cloud: CloudKMS, text: str) -> None:
    """A truncated, empty or other PEM, even with a correct checksum."""
    encoded = text.encode("utf-8", "surrogatepass")
    cloud.faults.on(PUBLIC_KEY, google.altered(pem=text, pemCrc32c=checksum(encoded)))

    with pytest.raises(EncodingError):
        cloud.backend.public_key(cloud.key)


def test_a_key_of_another_curve_is_refused(cloud: CloudKMS) -> None:
    """By its algorithm, and by the point if Google names the wrong algorithm."""
    p256 = cloud.emulator.create_version(algorithm="EC_SIGN_P256_SHA256")
    cloud.faults.on(PUBLIC_KEY, google.altered(pem=_pem(ec.SECP256R1())))

    with pytest.raises(KeyUnusableError, match="EC_SIGN_SECP256K1_SHA256"):
        cloud.backend.resolve(p256)
    cloud.faults.clear()
    cloud.faults.on(PUBLIC_KEY, google.pem(_pem(ec.SECP256R1())))
    with pytest.raises(EncodingError):
        Signer.open(cloud.backend, cloud.key, recording()[0])


# The machine may be busy.
SLACK = 10.0


def _answers(kms: GoogleCloudKMSBackend, key: KeyId) -> bool:
    """Whether *kms* has a token and a connection, which take long on a busy machine."""
    with suppress(BackendUnavailableError):
        return bool(kms.public_key(key))
    return False


SLOW: dict[str, Fault] = {
    "hang": faults.hang(),
    "stop after headers": faults.stop_after_headers(),
    "trickle": faults.trickle(0.05),
}


@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW)
def test_a_slow_service_does_not_exceed_the_deadline(
    cloud: CloudKMS, fault: Fault
) -> None:
    kms = cloud.open(MAX_ATTEMPTS=3, TIMEOUT_MS=500)
    assert eventually(lambda: _answers(kms, cloud.key))
    cloud.faults.always(SIGN, fault)
    started = time.monotonic()

    with pytest.raises(BackendUnavailableError):
        kms.sign_digest(cloud.key, DIGEST)

    assert time.monotonic() - started < 0.5 + SLACK


def test_a_hanging_attempt_is_repeated(cloud: CloudKMS) -> None:
    cloud.faults.on(SIGN, faults.hang())
    kms = cloud.open(TIMEOUT_MS=4_000)

    assert kms.sign_digest(cloud.key, DIGEST).attempts == 2


def test_a_frozen_service_is_not_asked_again_at_once(cloud: CloudKMS) -> None:
    """After a timeout, calls fail without a request for a second."""
    kms = cloud.open(MAX_ATTEMPTS=1, TIMEOUT_MS=500)
    assert eventually(lambda: _answers(kms, cloud.key))
    cloud.faults.always(SIGN, faults.hang())
    with pytest.raises(BackendUnavailableError):
        kms.sign_digest(cloud.key, DIGEST)
    before = _sign_calls(cloud.emulator)

    with pytest.raises(BackendUnavailableError, match="at present") as caught:
        kms.sign_digest(cloud.key, DIGEST)

    assert caught.value.attempts == 0
    assert _sign_calls(cloud.emulator) == before


def test_the_rate_is_limited(cloud: CloudKMS) -> None:
    """A call that would wait longer than its deadline allows is not sent."""
    kms = cloud.open(SIGNATURES_PER_SECOND=1, TIMEOUT_MS=500)

    def is_refused() -> bool:
        try:
            kms.sign_digest(cloud.key, DIGEST)
        except BackendThrottledError as e:
            return "wait for Cloud KMS" in str(e)
        except BackendUnavailableError:
            pass  # On a busy machine half a second is too short for the answer.
        return False

    assert eventually(is_refused)
