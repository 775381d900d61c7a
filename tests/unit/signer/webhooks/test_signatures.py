"""The signatures of Standard Webhooks."""

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from signer.errors import InvalidInputError
from signer.webhooks.signatures import (
    PrivateKey,
    Secret,
    WebhookPublicKey,
    read_private_keys,
    read_public_keys,
    read_secrets,
    sign,
    verify,
)


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BODY = b'{"type":"refund.confirmed","data":{"amount":"12.50"}}'

KEY = PrivateKey(bytes(range(32)))
SECRET = Secret(b"\x01" * 32)


def test_the_reference_library_verifies_a_secret() -> None:
    """The package ``standardwebhooks`` of the specification's authors accepts it."""
    now = datetime.now(UTC)  # The library compares it with the system's clock.
    headers = dict(sign([KEY, SECRET], "evt_1", now, BODY))
    reference = Webhook(SECRET.format())

    assert reference.verify(BODY, headers)["type"] == "refund.confirmed"
    for changed in (
        {**headers, "webhook-id": "evt_2"},
        {**headers, "webhook-timestamp": str(int(now.timestamp()) + 1)},
    ):
        with pytest.raises(WebhookVerificationError):
            reference.verify(BODY, changed)
    with pytest.raises(WebhookVerificationError):
        reference.verify(BODY + b" ", headers)


def test_cryptography_verifies_a_key() -> None:
    """An independent check of ``v1a``: Ed25519 over id, time and body."""
    headers = sign([KEY], "evt_1", NOW, BODY)
    scheme, _, text = headers["webhook-signature"].partition(",")
    public = Ed25519PublicKey.from_public_bytes(
        base64.urlsafe_b64decode(KEY.public.jwk()["x"] + "=")
    )
    message = f"evt_1.{int(NOW.timestamp())}.".encode() + BODY

    assert scheme == "v1a"
    public.verify(base64.b64decode(text), message)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(text), message + b" ")


@pytest.mark.parametrize("key", [KEY.public, SECRET], ids=["key", "secret"])
def test_our_own_verification(key: WebhookPublicKey | Secret) -> None:
    """One valid signature of several suffices, so that keys can be replaced."""
    headers = sign([PrivateKey.generate(), KEY, SECRET], "evt_1", NOW, BODY)
    old = Secret.generate()

    assert verify([old, key], headers, BODY, NOW) == "evt_1"
    with pytest.raises(InvalidInputError, match="no signature"):
        verify([old], headers, BODY, NOW)
    with pytest.raises(InvalidInputError, match="no signature"):
        verify([key], headers, BODY + b" ", NOW)
    with pytest.raises(InvalidInputError, match="five minutes"):
        verify([key], headers, BODY, NOW + timedelta(seconds=302))
    for name in headers:
        with pytest.raises(InvalidInputError, match="missing"):
            verify([key], {**headers, name: ""}, BODY, NOW)
    with pytest.raises(InvalidInputError, match="missing"):
        verify([key], {**headers, "webhook-timestamp": "\u0661"}, BODY, NOW)


@pytest.mark.parametrize(
    "signature", ["v1a,", "v1a,*", "v1a,AAAA", "v1,AAAA", "v2,AAAA", "v1a", "\xe4,\xe4"]
)
def test_signatures_that_are_none(signature: str) -> None:
    for key in (KEY.public, SECRET):
        assert not key.is_valid(signature, BODY)


def test_keys_have_one_text() -> None:
    """A secret stays out of representations, and a public key has an id."""
    short = f"whsk_{base64.b64encode(KEY.seed).decode()}"

    assert PrivateKey.parse(KEY.format()) == KEY == PrivateKey.parse(short)
    assert WebhookPublicKey.parse(KEY.public.format()) == KEY.public
    assert Secret.parse(SECRET.format()) == SECRET
    assert KEY.public.jwk()["kid"] == KEY.public.id == "56475aa75463474c"
    assert (repr(KEY), repr(SECRET)) == ("PrivateKey()", "Secret()")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsk_",
        "whsk_*",
        "whsk_\xe4",
        f"whpk_{base64.b64encode(bytes(32)).decode()}",
        f"whsk_{base64.b64encode(bytes(31)).decode()}",
        f"whsk_{base64.b64encode(bytes(64)).decode()}",
        f"whsk_{base64.b64encode(bytes(65)).decode()}",
    ],
)
def test_texts_that_are_no_key(text: str) -> None:
    """The error does not quote the text, which may be a secret in the wrong place."""
    with pytest.raises(ValueError, match="24 to 64"):
        Secret.parse(f"whsec_{base64.b64encode(bytes(23)).decode()}")
    with pytest.raises(ValueError, match="32 bytes"):
        WebhookPublicKey.parse(f"whpk_{base64.b64encode(bytes(33)).decode()}")

    with pytest.raises(ValueError, match=r"whsk_ and Base64|32 bytes") as caught:
        PrivateKey.parse(text)

    assert not text.removeprefix("whsk_") or text not in str(caught.value)


def test_files(tmp_path: Path) -> None:
    """Each line is a key; files of secrets must be their owner's alone."""
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    other = PrivateKey.generate()
    path.write_text(f"{KEY.format()}\n{other.format()}\n", encoding="ascii")
    assert read_private_keys(path) == [KEY, other]
    path.write_text(SECRET.format(), encoding="ascii")
    assert read_secrets(path) == [SECRET]
    path.write_text(KEY.public.format(), encoding="ascii")
    path.chmod(0o644)
    assert read_public_keys(path) == [KEY.public]
    with pytest.raises(ValueError, match="chmod 600"):
        read_secrets(path)
    for content, problem in (
        (b"", "1 to 4 lines"),
        (b"x\n" * 5, "1 to 4 lines"),
        (b"\xff", "not text"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=problem):
            read_public_keys(path)
