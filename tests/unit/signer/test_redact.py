"""Redaction removes secrets and vendors' messages from everything that is shown."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signer.redact import (
    _SECRETS,
    REDACTED,
    cut_key_ids,
    key_prefix,
    redact_event,
    sanitize,
)


ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJnYXRld2F5In0.c2lnbmF0dXJl"

SECRETS = [
    ARN,
    "arn:aws:iam::111122223333:role/RefundSigner",
    "arn:aws-us-gov:sts::111122223333:assumed-role/Pay/i-0abc",
    "arn:aws:kms:us-east-1:111122223333:alias/hot",
    JWT,
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "AROAIOSFODNN7EXAMPLE",
    "https://mainnet.example/v3/0123456789abcdef",
    "HTTPS://USER:PASSWORD@NODE.EXAMPLE/KEY",
    "postgresql+psycopg://pay:hunter2@db.internal:5432/refunds",
    *("sqlite:////var/lib/hotwallet/hotwallet.db", "kms.eu-central-1.amazonaws.com"),
    *("kms.cn-north-1.amazonaws.com.cn", "eu-central-1", "us-gov-west-1"),
    *("ap-southeast-2", "111122223333", "host=10.0.0.7", "user=refund_service"),
    "database=refunds",
]


FRAMES = (
    *(
        "{}",
        "for {} now",
        "({})",
        "'{}'",
        '"{}"',
        "for {}.",
        "{}, then",
        "k={}",
        "[{}]",
    ),
)


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_in_vendor_messages_are_redacted(secret: str) -> None:
    """The secret is removed, and the text around it stays."""
    for frame in FRAMES:
        before, after = frame.split("{}")
        text = sanitize(frame.format(secret))

        assert secret not in text
        assert REDACTED in text
        assert text.startswith(before)
        # Punctuation may be taken for the end of a URL or an ARN.
        assert text.endswith(after.lstrip(".,)"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "refund-delayed",
        "0x5FbDB2315678afecb367f032d93F642f64180aa3",
        *("0x" + "1" * 64, "12.500000", "111122223333.5", "1111222233334"),
        "rf_019aa0b1c2d3e4f5061728394a5b6c7d8e9f",
        *("2026-01-02T03:04:05.000000+00:00", "1234abcd...", "local"),
        "backend-unavailable",
        "8ae8df34-2a06-4444-ada4-743714757909",  # A KMS request id.
    ],
)
def test_harmless_text_is_kept(text: str) -> None:
    """Addresses, hashes, amounts, refund ids and times are not secrets."""
    assert sanitize(text) == text


@given(
    st.from_regex(r"\A(AKIA|ASIA|AROA|AIDA|x)?[A-Z0-9_\xe9\u0663]{11,14}\Z")
    | st.text("1_.", min_size=11, max_size=26)
    | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
    | st.from_regex(r"\A[0-9a]{8}(-[0-9a]{4}){3}-[0-9a]{12}\Z")
)
@settings(max_examples=50)
def test_a_single_word_is_searched_too(word: str) -> None:
    """Words, numbers, times and UUIDs take a shortcut, which changes no result."""
    assert sanitize(word) == _SECRETS.sub(REDACTED, word)


@given(st.text(max_size=200))
def test_redaction_is_idempotent(text: str) -> None:
    once = sanitize(text)

    assert sanitize(once) == once


@pytest.mark.parametrize(
    ("key_id", "shown"),
    [
        (ARN, "1234abcd..."),
        ("arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd12ab34cd", "mrk-1234..."),
        ("alias/hot-wallet", "hot-wall..."),
        ("0123456789abcdef", "01234567..."),
        ("01", "01..."),
        ("", "..."),
    ],
)
def test_key_prefix_is_eight_characters(key_id: str, shown: str) -> None:
    """The account and the region of an ARN are not part of the prefix."""
    assert key_prefix(key_id) == shown


@pytest.mark.parametrize(
    "key_id",
    [
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        "1234ABCD-12AB-34CD-56EF-1234567890AB",
        "1234abcd-12ab-34cd-56ef",  # Half of it was copied,
        "1234abcd-12ab-34cd-56ef-1234567890az0",  # or it was mistyped.
        "mrk-1234abcd12ab34cd56ef1234567890ab",
        "mrk-1234abcd",
        "41163f5441163f5441163f5441163f54",
        "41163f5441163f54",
        "41163f54z1163f5441163f5441163f54",
    ],
)
def test_key_ids_in_typed_text_are_cut(key_id: str) -> None:
    """Eight characters of the id are left, and the text around it stays."""
    for frame in ("{}", "({})", "'{}'.", "key/{}", "--{}", "k={},"):
        text = cut_key_ids(frame.format(key_id))

        assert text == frame.format(key_id[:8] + "...")
        assert cut_key_ids(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Usage: hotwallet keys rotate [OPTIONS] NEW_KEY_ID",
        "No such option '--dryrun'. Did you mean '--dry-run'?",
        "0x5FbDB2315678afecb367f032d93F642f64180aa3",
        *("0x" + "1" * 64, "rf_019aa0b1c2d3e4f5061728394a5b6c7d8e9f"),
        *("2026-01-02T03:04:05.000000+00:00", "1234abcd...", "alias/hot-wallet", "01"),
    ],
)
def test_other_text_is_not_cut(text: str) -> None:
    """Commands, addresses, hashes and refund ids stay whole."""
    assert cut_key_ids(text) == text


SECRET_NAMES = [
    *("pin", "PIN", "PKCS11_PIN", "pkcs11-pin", "password", "passwd", "db_password"),
    *("secret", "JWT_SECRET", "token", "access_token", "x-amz-security-token"),
    *("authorization", "Authorization", "cookie", "credential", "credentials"),
    *("private_key", "MERCHANT_WALLET_PRIVATE_KEY", "AWS_SECRET_ACCESS_KEY"),
    *("secret_key", "signature", "raw", "raw_transaction", "dsn", "api_key", "apikey"),
    *("jwt", "bearer"),
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_fields_with_secret_names_are_redacted(name: str) -> None:
    """A value of any type is replaced."""
    for value in ("x", b"x", 1, None, ["x"], {"y": "x"}):
        assert redact_event(None, "info", {name: value}) == {name: REDACTED}


@pytest.mark.parametrize(
    "name", ["event", "key_id", "operation", "spinning", "tokens_left", "rawhide"]
)
def test_similar_names_are_not_redacted(name: str) -> None:
    assert redact_event(None, "info", {name: "value"}) == {name: "value"}


def test_nested_values_are_redacted() -> None:
    """Mappings and lists are searched by name and by pattern."""
    event: dict[str, Any] = {
        "event": f"sign with {ARN}",
        "request": {"headers": {"Authorization": "Bearer x", "host": "h"}, "n": 1},
        "errors": [f"no {JWT}", ("postgresql://u:p@h/d", 2.5, True, None)],
        "limits": {8: "sqlite:///x.db"},
    }

    assert redact_event(None, "info", event) == {
        "event": f"sign with {REDACTED}",
        "request": {"headers": {"Authorization": REDACTED, "host": "h"}, "n": 1},
        "errors": [f"no {REDACTED}", [REDACTED, 2.5, True, None]],
        "limits": {"8": REDACTED},
    }


class SecretRepr:
    """An object whose repr contains a secret."""

    def __repr__(self) -> str:
        return "PIN=1234"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (SecretRepr(), "[SecretRepr]"),
        (b"\x01\x02", "[bytes]"),
        (ValueError("PIN=1234"), "[ValueError]"),
        ({"PIN=1234"}, "[set]"),
    ],
    ids=["object", "bytes", "exception", "set"],
)
def test_unknown_types_show_only_their_type(value: object, shown: str) -> None:
    """Bytes may be a signature, and a repr may contain a secret."""
    assert redact_event(None, "info", {"x": [value]}) == {"x": [shown]}


_text = st.text(max_size=8)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(_text, _values, max_size=4))
def test_redacted_events_are_json(event: dict[str, Any]) -> None:
    """Any event can be rendered as JSON after redaction, with the same fields."""
    names = set(event)

    cleaned = redact_event(None, "info", event)

    assert cleaned is event
    assert set(cleaned) == names
    json.dumps(cleaned)


def test_long_text_is_redacted_in_linear_time() -> None:
    """Many words that might begin a URL once took minutes."""
    text = "a." * 100_000

    assert sanitize(f"{text} postgresql://u:p@h/d") == f"{text} [redacted]"
