"""Access tokens come from google-auth, within the deadline."""

import json
import logging
import threading
import warnings
from pathlib import Path

import pytest

from backends.google_cloud_kms.access_tokens import AccessTokens
from backends.google_cloud_kms.backend import GoogleCloudKMSBackend
from dev import kms_faults as faults
from dev.google_kms_emulator import SIGN, TOKEN, GoogleKMSEmulator
from dev.kms_wire import Fault, Faults, Reply
from signer.errors import AccessDeniedError, BackendUnavailableError
from signer.ports.key_backend import KeyId
from tests.fixtures.google_kms import OpenGoogleKMS


DIGEST = bytes(range(32))


def _requests(emulator: GoogleKMSEmulator, operation: str) -> int:
    return sum(call.operation == operation for call in list(emulator.journal))


def test_a_token_is_used_for_many_calls(
    open_google_kms: OpenGoogleKMS,
    google_cloud_kms_key: KeyId,
    google_kms_emulator: GoogleKMSEmulator,
) -> None:
    """One request for a token, also by threads that all need the first."""
    kms = open_google_kms()
    before = _requests(google_kms_emulator, TOKEN)
    threads = [
        threading.Thread(target=kms.sign_digest, args=(google_cloud_kms_key, DIGEST))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert _requests(google_kms_emulator, TOKEN) - before == 1


def test_a_refused_token_is_renewed_once(
    google_cloud_kms: GoogleCloudKMSBackend,
    google_cloud_kms_key: KeyId,
    google_kms_emulator: GoogleKMSEmulator,
) -> None:
    """A token may be revoked before it expires."""
    google_cloud_kms.sign_digest(google_cloud_kms_key, DIGEST)
    google_kms_emulator.tokens.revoke()

    assert google_cloud_kms.sign_digest(google_cloud_kms_key, DIGEST).attempts == 2


def test_a_token_that_stays_refused_is_access_denied(
    google_cloud_kms: GoogleCloudKMSBackend,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
) -> None:
    google_kms_faults.always(SIGN, faults.html(401))

    with pytest.raises(AccessDeniedError) as caught:
        google_cloud_kms.sign_digest(google_cloud_kms_key, DIGEST)

    assert caught.value.attempts == 2


def test_a_token_that_ends_soon_is_used_if_it_cannot_be_renewed(
    open_google_kms: OpenGoogleKMS,
    google_cloud_kms_key: KeyId,
    google_kms_emulator: GoogleKMSEmulator,
    google_kms_faults: Faults,
) -> None:
    """google-auth renews a token 3 min 45 s before its end."""
    kms = open_google_kms()
    google_kms_emulator.tokens.seconds = 120
    try:
        kms.sign_digest(google_cloud_kms_key, DIGEST)
    finally:
        google_kms_emulator.tokens.seconds = 3600
    refused = b'{"error": "invalid_grant"}'
    google_kms_faults.always(TOKEN, lambda _: Reply(refused, 400))

    assert kms.sign_digest(google_cloud_kms_key, DIGEST).attempts == 1


def test_no_word_of_the_token_endpoint_is_shown(
    open_google_kms: OpenGoogleKMS,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = b'{"error": "invalid_grant", "error_description": "secret@example"}'
    google_kms_faults.always(TOKEN, lambda _: Reply(secret, 400))
    caplog.set_level(logging.DEBUG)

    with pytest.raises(AccessDeniedError) as caught:
        open_google_kms().sign_digest(google_cloud_kms_key, DIGEST)

    assert str(caught.value) == "Google's credentials were refused (RefreshError)"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "fault", [faults.hang(), faults.drop_reply()], ids=["hangs", "drops replies"]
)
def test_a_token_endpoint_that_does_not_answer_is_unavailable(
    open_google_kms: OpenGoogleKMS,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
    fault: Fault,
) -> None:
    google_kms_faults.always(TOKEN, fault)

    with pytest.raises(BackendUnavailableError):
        open_google_kms(TIMEOUT_MS=600).sign_digest(google_cloud_kms_key, DIGEST)


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
