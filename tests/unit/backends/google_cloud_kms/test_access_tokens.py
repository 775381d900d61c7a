"""Access tokens come from google-auth, within the deadline."""

import json
import logging
import threading
import warnings
from pathlib import Path

import pytest

from backends.google_cloud_kms.backend import AccessTokens
from dev import kms_faults as faults
from dev.google_kms_emulator import SIGN, TOKEN, GoogleKMSEmulator
from dev.kms_wire import Fault, Reply
from signer.errors import AccessDeniedError, BackendUnavailableError
from tests.fixtures.google_kms import CloudKMS


DIGEST = bytes(range(32))


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
