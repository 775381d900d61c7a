"""Google Cloud KMS: requests, access tokens, settings, and errors."""

import json
import logging
import os
import threading
import time
import warnings
from base64 import b64decode
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backends.google_cloud_kms.answers import crc32c
from backends.google_cloud_kms.backend import AccessTokens, GoogleCloudKMSBackend
from backends.google_cloud_kms.plugin import PLUGIN
from dev import google_kms_faults as google
from dev import kms_faults as faults
from dev.google_kms_emulator import PUBLIC_KEY, RING, SIGN, TOKEN, GoogleKMSEmulator
from dev.google_kms_keys import checksum
from dev.kms_wire import Fault, Reply
from signer.config.settings import Settings
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    ConfigurationError,
    EncodingError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
    SigningError,
)
from signer.keys.signer import Signer
from signer.ports.backend_plugin import BackendConfig
from signer.ports.key_backend import KeyId
from tests.fixtures.google_kms import CloudKMS
from tests.support.devices import recording
from tests.support.waiting import eventually


DIGEST = bytes(range(32))

ELSEWHERE = "projects/thief/locations/europe-west3/keyRings/r/cryptoKeys/k"


def test_the_request_is_what_google_documents(cloud: CloudKMS) -> None:
    """The digest as given, with its checksum, and a bearer token."""
    cloud.sign()
    call = cloud.emulator.journal[-1]

    assert call.target == f"{cloud.key}.{SIGN}"
    assert b64decode(call.parameters["digest"]["sha256"]) == DIGEST
    assert call.parameters["digestCrc32c"] == str(crc32c(DIGEST))
    assert set(call.parameters) == {"digest", "digestCrc32c"}
    assert call.headers["authorization"].startswith("Bearer ya29.")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "alias/refunds",
        f"{RING}/cryptoKeys/refunds",
        f"{RING}/cryptoKeys/refunds/cryptoKeyVersions/0",
        f"{RING}/cryptoKeys/refunds/cryptoKeyVersions/1/publicKey",
        f"{RING}/cryptoKeys/../cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/a%2Fb/cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/a?b/cryptoKeyVersions/1",
        f"/{RING}/cryptoKeys/refunds/cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/refunds/cryptoKeyVersions/1\n",
    ],
)
def test_only_whole_names_of_versions_are_accepted(cloud: CloudKMS, name: str) -> None:
    """Nothing is sent for another name, which is not repeated."""
    before = len(cloud.emulator.journal)

    with pytest.raises(InvalidInputError, match="cryptoKeyVersions") as caught:
        cloud.backend.resolve(name)
    with pytest.raises(KeyNotFoundError):
        cloud.backend.sign_digest(KeyId(name), DIGEST)

    assert not name or name not in str(caught.value)
    assert len(cloud.emulator.journal) == before


def test_keys_that_are_not_allowed_are_refused(cloud: CloudKMS) -> None:
    """Those of other key rings, unless the list has them; nothing is sent."""
    name = KeyId(cloud.emulator.create_version(ring=ELSEWHERE.partition("/cryp")[0]))
    other = cloud.open()
    before = len(cloud.emulator.journal)

    with pytest.raises(InvalidInputError, match="GOOGLE_CLOUD_KMS_ALLOWED_KEYS"):
        other.resolve(name)
    with pytest.raises(KeyUnusableError, match="GOOGLE_CLOUD_KMS_ALLOWED_KEYS"):
        other.sign_digest(name, DIGEST)

    assert len(cloud.emulator.journal) == before
    pattern = (
        f"{name.partition('/keyRings')[0]}/keyRings/*/cryptoKeys/*/cryptoKeyVersions/*"
    )
    assert cloud.open(ALLOWED_KEYS=pattern).resolve(name) == name


def test_a_child_process_does_not_use_the_client(cloud: CloudKMS) -> None:
    """It would share sockets with its parent."""
    child = os.fork()
    if not child:
        try:
            cloud.sign()
        except BackendError as e:
            os._exit(7 if "before the fork" in str(e) else 1)
        os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# Errors and damaged answers of Google Cloud KMS, and slow ones.


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


# Access tokens come from google-auth, within the deadline.


def _requests(emulator: GoogleKMSEmulator, operation: str) -> int:
    return sum(call.operation == operation for call in list(emulator.journal))


def test_a_token_is_used_for_many_calls(cloud: CloudKMS) -> None:
    """One request for a token, also by threads that all need the first."""
    kms = cloud.open()
    before = _requests(cloud.emulator, TOKEN)
    threads = [
        threading.Thread(target=kms.sign_digest, args=(cloud.key, DIGEST))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert _requests(cloud.emulator, TOKEN) - before == 1


def test_a_refused_token_is_renewed_once(cloud: CloudKMS) -> None:
    """A token may be revoked before it expires."""
    cloud.sign()
    cloud.emulator.tokens.revoke()

    assert cloud.sign().attempts == 2


def test_a_token_that_stays_refused_is_access_denied(cloud: CloudKMS) -> None:
    cloud.faults.always(SIGN, faults.html(401))

    with pytest.raises(AccessDeniedError) as caught:
        cloud.sign()

    assert caught.value.attempts == 2


def test_a_token_that_ends_soon_is_used_if_it_cannot_be_renewed(
    cloud: CloudKMS,
) -> None:
    """google-auth renews a token 3 min 45 s before its end."""
    kms = cloud.open()
    cloud.emulator.tokens.seconds = 120
    try:
        kms.sign_digest(cloud.key, DIGEST)
    finally:
        cloud.emulator.tokens.seconds = 3600
    refused = b'{"error": "invalid_grant"}'
    cloud.faults.always(TOKEN, lambda _: Reply(refused, 400))

    assert kms.sign_digest(cloud.key, DIGEST).attempts == 1


def test_no_word_of_the_token_endpoint_is_shown(
    cloud: CloudKMS, caplog: pytest.LogCaptureFixture
) -> None:
    secret = b'{"error": "invalid_grant", "error_description": "secret@example"}'
    cloud.faults.always(TOKEN, lambda _: Reply(secret, 400))
    caplog.set_level(logging.DEBUG)

    with pytest.raises(AccessDeniedError) as caught:
        cloud.open().sign_digest(cloud.key, DIGEST)

    assert str(caught.value) == "Google's credentials were refused (RefreshError)"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "fault", [faults.hang(), faults.drop_reply()], ids=["hangs", "drops replies"]
)
def test_a_token_endpoint_that_does_not_answer_is_unavailable(
    cloud: CloudKMS, fault: Fault
) -> None:
    cloud.faults.always(TOKEN, fault)

    with pytest.raises(BackendUnavailableError):
        cloud.open(TIMEOUT_MS=600).sign_digest(cloud.key, DIGEST)


CREDENTIALS = {
    "missing file": None,
    "no JSON": "{",
    "JSON of another type": "[]",
    "unknown type": json.dumps({"type": "x"}),
    "no key": json.dumps({"type": "service_account"}),
    "malformed key": json.dumps(
        {
            "type": "service_account",
            "client_email": "a@example",
            "token_uri": "http://127.0.0.1:1/token",
            "private_key": "x",
        }
    ),
}


@pytest.mark.parametrize("content", CREDENTIALS.values(), ids=CREDENTIALS)
def test_unusable_credentials_are_access_denied(
    google_environment: pytest.MonkeyPatch,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: str | None,
) -> None:
    """The error has the kind of the problem, and neither path nor content."""
    file = tmp_path / "credentials.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(AccessDeniedError) as caught:
            AccessTokens(1.0).get()

    assert str(tmp_path) not in str(caught.value)
    assert caught.value.__context__ is None


def test_no_credentials_are_access_denied(
    google_environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP"):
        monkeypatch.setenv(name, "127.0.0.1:1")

    with pytest.raises(AccessDeniedError, match="Google's credentials"):
        AccessTokens(1.0).get()


# The settings of the Google Cloud KMS backend, as the guard checks them.

KEY = f"{RING}/cryptoKeys/refunds/cryptoKeyVersions/1"

BASE = {"GOOGLE_CLOUD_KMS_KEY": KEY}


def _config(**environ: str) -> BackendConfig:
    return BackendConfig(Settings.from_env(environ), environ)


def _codes(**environ: str) -> list[str]:
    try:
        return [refusal.code for refusal in PLUGIN.refusals(_config(**environ))]
    except ConfigurationError as e:
        return [refusal.code for refusal in e.refusals]


@pytest.mark.parametrize(
    ("environ", "codes"),
    [
        ({}, ["kms-not-configured"]),
        ({"GOOGLE_CLOUD_KMS_KEY": " "}, ["kms-not-configured"]),
        ({"GOOGLE_CLOUD_KMS_KEY": "refunds"}, ["kms-not-configured"]),
        ({"GOOGLE_CLOUD_KMS_KEY": KEY.rpartition("/")[0]}, ["kms-not-configured"]),
        (BASE, []),
        (
            {**BASE, "GOOGLE_CLOUD_KMS_ALLOWED_KEYS": KEY[:-1] + "2"},
            ["kms-key-not-allowed"],
        ),
        ({**BASE, "GOOGLE_CLOUD_KMS_ALLOWED_KEYS": KEY[:-1] + "*"}, []),
        ({**BASE, "GOOGLE_CLOUD_KMS_ALLOWED_KEYS": "*"}, ["settings-invalid"]),
        ({**BASE, "GOOGLE_CLOUD_KMS_ALLOWED_KEYS": "projects/*"}, ["settings-invalid"]),
        ({**BASE, "GOOGLE_CLOUD_KMS_MAX_ATTEMPTS": "4"}, ["settings-invalid"]),
        ({**BASE, "GOOGLE_CLOUD_KMS_TIMEOUT_MS": "x"}, ["settings-invalid"]),
    ],
)
def test_unusable_settings_are_refused(
    environ: dict[str, str], codes: list[str]
) -> None:
    assert _codes(**environ) == codes


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://kms.example",
        "http://10.0.0.1:80",
        "http://localhost:80",
        "https://a@kms.example",
        "https://kms.example/path",
        "https://kms.example?x",
        "file:///etc",
        "x",
    ],
)
def test_no_token_is_sent_to_an_insecure_endpoint(endpoint: str) -> None:
    """Not in development either: the token may be a real one."""
    assert _codes(**BASE, GOOGLE_CLOUD_KMS_ENDPOINT=endpoint) == ["settings-invalid"]


def test_production_refuses_an_endpoint() -> None:
    endpoint = {"GOOGLE_CLOUD_KMS_ENDPOINT": "https://kms.example"}
    refusal = PLUGIN.production_refusal(_config(**BASE, **endpoint))

    assert refusal is not None
    assert refusal.code == "kms-endpoint-forbidden"
    assert PLUGIN.production_refusal(_config(**BASE)) is None


def test_opening_sends_nothing_and_reads_no_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")

    backend = PLUGIN.open(_config(**BASE))

    assert backend.name == PLUGIN.name
    assert backend.concurrency >= 1
