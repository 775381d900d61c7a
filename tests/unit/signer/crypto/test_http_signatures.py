"""A request signature covers what it must, under a key of the tenant."""

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any

import http_sf
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from signer.crypto.http_signatures import accept_signature, verify_request
from signer.crypto.request_keys import normalize_public_key
from signer.errors import RequestSignatureError
from tests.support.signed_requests import RequestKey


BODY = b'{"amount": "12.50"}'
NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)
ED25519 = RequestKey()
P256 = RequestKey("gateway-p256", ec.generate_private_key(ec.SECP256R1()))
KEYS = {each.key_id: each.public for each in (ED25519, P256)}
INPUT = "Signature-Input"


def verified(headers: dict[str, str], body: bytes = BODY, **changed: Any) -> datetime:
    """Return when *headers* were signed."""
    request = {"method": "POST", "path": "/v1/refunds", "keys": KEYS}
    request |= {"service": "hotwallet"}
    return verify_request(**{**request, **changed}, headers=headers, body=body)


@pytest.mark.parametrize("key", [ED25519, P256], ids=lambda key: key.key_id)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"include_alg": False},
        {"nonce": "n", "label": "gateway"},
        {"covered": ("idempotency-key", "content-digest", "@path", "@method")},
    ],
    ids=["plain", "no alg", "more parameters", "another order"],
)
def test_what_a_gateway_signs_is_valid(
    key: RequestKey, options: dict[str, Any]
) -> None:
    """Ed25519 and P-256; the authority is not covered, since a proxy may change it."""
    assert verified(key.headers(BODY, "k", NOW, **options)) == NOW
    digest = base64.b64encode(hashlib.sha512(BODY).digest()).decode()
    options = {**options, "content_digest": f"sha-512=:{digest}:"}  # RFC 9530.
    assert verified(key.headers(BODY, "k", NOW, **options)) == NOW


@pytest.mark.parametrize(
    "changed",
    [
        {"body": BODY + b" "},
        {"method": "PUT"},
        {"path": "/v1/refunds/x/cancel"},
        {"keys": {ED25519.key_id: RequestKey().public}},
    ],
    ids=["body", "method", "path", "key"],
)
def test_what_the_signature_covers_cannot_change(changed: dict[str, Any]) -> None:
    """Another body, method, path or key: refused."""
    with pytest.raises(RequestSignatureError, match="not valid"):
        verified(ED25519.headers(BODY, "k", NOW), **changed)


@pytest.mark.parametrize(
    ("tag", "problem"), [(None, "service, hotwallet"), ("other", "service, hotwallet")]
)
def test_a_signature_names_its_service(tag: str | None, problem: str) -> None:
    """Another service with the same tenants must not pay it as well."""
    with pytest.raises(RequestSignatureError, match=problem):
        verified(ED25519.headers(BODY, "k", NOW, tag=tag))


def test_what_is_asked_for_can_be_parsed() -> None:
    """Also if the service's name has quotes."""
    name = 'a "b" \\ c'
    asked: Any = http_sf.parse(accept_signature(name).encode(), tltype="dictionary")

    assert asked["sig1"][1]["tag"] == name


_INPUT = ED25519.headers(BODY, "k", NOW)[INPUT]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("Idempotency-Key", "other", "not valid"),
        ("Content-Digest", "sha-256=:AAAA:", "not valid"),
        ("Content-Digest", "md5=:AAAA:", "not valid"),
        ("Content-Digest", "", "header Content-Digest is missing"),
        ("Signature", "sig1=:AAAA:", "not valid"),
        ("Signature", "sig1=1", "not valid"),
        ("Signature", "sig2=:AAAA:", "not valid"),
        ("Signature", "(", "not valid"),
        ("Signature", "", "header Signature is missing"),
        # The algorithm is that of the key.
        (INPUT, _INPUT.replace("ed25519", "hmac-sha256"), "not valid"),
    ],
    ids=range(10),
)
def test_a_changed_header_is_refused(name: str, value: str, problem: str) -> None:
    """Each header counts, also when it is malformed."""
    with pytest.raises(RequestSignatureError, match=problem):
        verified(ED25519.headers(BODY, "k", NOW) | {name: value})


@pytest.mark.parametrize(
    "covered",
    [
        ("@method", "@path", "content-digest"),
        ("@method", "@path", "content-digest", "idempotency-key", "content-type"),
        ("@method", "@target-uri", "content-digest", "idempotency-key"),
        ("@method", "@path", '"content-digest";sf', "idempotency-key"),
    ],
)
def test_other_components_are_refused(covered: tuple[str, ...]) -> None:
    """Fewer, more or others, or with parameters."""
    with pytest.raises(RequestSignatureError, match="other components"):
        verified(ED25519.headers(BODY, "k", NOW, covered=covered))


def _input(items: str | None = None, parameters: str = "") -> str:
    names = ("@method", "@path", "content-digest", "idempotency-key")
    items = items or "({})".format(" ".join(f'"{name}"' for name in names))
    return f"sig1={items}{parameters}"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("sig1=(", "malformed"),
        ("\udc80", "malformed"),
        (f"{_input()}, sig2=1", "exactly one"),
        (",", "malformed"),
        ("", "header Signature-Input is missing"),
        (_input('"text"'), "other components"),
        (_input("?1"), "other components"),
        (_input(None), "other parameters"),
        (_input(None, ';created=1;keyid="k";expires=2'), "other parameters"),
        (_input(None, ';created=1;keyid="k";req'), "other parameters"),
        (_input(None, ";created=1;keyid=k"), "keyid is not"),
        (_input(None, ';created="1";keyid="k"'), "created is not"),
        (_input(None, ';created=1.5;keyid="k"'), "created is not"),
        (_input(None, ';created=999999999999999;keyid="k"'), "created is not"),
        (_input(None, ';created=1;keyid="k"'), "tag is not"),
        (_input(None, ';created=1;keyid="k";tag="hotwallet"'), "no request key"),
    ],
)
def test_the_form_is_checked_first(value: str, problem: str) -> None:
    """The message names the part that is wrong."""
    with pytest.raises(RequestSignatureError, match=problem):
        verified(ED25519.headers(BODY, "k", NOW) | {INPUT: value})


_TEXT = st.text(max_size=60) | st.lists(
    st.sampled_from(
        [
            *("sig1=", "(", ")", '"@method"', '"@path"', '"content-digest"', " ", ";"),
            *('"idempotency-key"', "created=1", 'keyid="gateway-2026"', ":AAAA:", ","),
        ]
    ),
    max_size=14,
).map("".join)


@given(st.sampled_from(["Signature", INPUT, "Content-Digest"]), _TEXT)
def test_random_headers_are_refused(name: str, value: str) -> None:
    """Hostile headers are an error of the caller, and of no other kind."""
    with pytest.raises(RequestSignatureError):
        verified(ED25519.headers(BODY, "k", NOW) | {name: value})


def test_a_public_key_has_one_form() -> None:
    """Whitespace and text around the PEM do not change the configuration's hash."""
    written = f"\n key of the shop:\n{ED25519.public}\n\n"

    assert normalize_public_key(written) == ED25519.public


def _public(key: Any) -> str:
    text = key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    return str(text.decode())


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "ssh-ed25519 AAAA",
        ED25519.pem.decode(),
        _public(ed448.Ed448PrivateKey.generate()),
        _public(ec.generate_private_key(ec.SECP384R1())),
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    ],
    ids=["empty", "ssh", "private", "ed448", "p384", "broken"],
)
def test_other_keys_are_refused(pem: str) -> None:
    """The message does not quote the text, which may be a private key."""
    with pytest.raises(ValueError, match="P-256 public key") as caught:
        normalize_public_key(pem)

    assert caught.value.__cause__ is None
    assert "BEGIN" not in str(caught.value)
