"""The keys that verify tokens: from one source, with one algorithm each."""

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from api.auth.verification_keys import load_keys
from signer.config.settings import Settings
from signer.errors import ConfigurationError
from tests.api.support import (
    ED25519_KEY,
    ES256_KEY,
    ISSUER,
    RSA_KEY,
    SettableClock,
    claims,
    header,
    make_verifier,
    signed,
)


_SECRET = "s3cret-" * 5
_JWKS = "jwks.json"
_PEM = "key.pem"


def _settings(folder: Path, **changes: str) -> Settings:
    environ = {"APP_ENV": "test", "JWT_ISSUER": ISSUER} | changes
    for name in ("JWT_PUBLIC_KEY_FILE", "JWT_JWKS_FILE"):
        if name in environ:
            environ[name] = str(folder / environ[name])
    return Settings.from_env(environ)


def _public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def _private_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _jwk(alg: str, key: Any, /, **changes: Any) -> dict[str, Any]:
    jwk = jwt.get_algorithm_by_name(alg).to_jwk(key, as_dict=True)
    members = jwk | {"kid": "a", "alg": alg, "use": "sig", "key_ops": ["verify"]}
    return {
        name: value for name, value in (members | changes).items() if value is not ...
    }


def _jwks(folder: Path, *keys: dict[str, Any]) -> None:
    (folder / _JWKS).write_text(json.dumps({"keys": keys}))


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("ES256", ES256_KEY),
        ("RS256", RSA_KEY),
        ("PS256", RSA_KEY),
        ("EdDSA", ED25519_KEY),
    ],
)
def test_verifies_with_a_public_key(tmp_path: Path, algorithm: str, key: Any) -> None:
    (tmp_path / _PEM).write_bytes(_public_pem(key))
    settings = _settings(tmp_path, JWT_PUBLIC_KEY_FILE=_PEM, JWT_ALGORITHM=algorithm)
    token = signed(header(alg=algorithm), claims(), key, algorithm)

    caller = make_verifier(settings, SettableClock()).authenticate(f"Bearer {token}")

    assert caller.sub == "gateway-1"


def test_verifies_with_a_shared_secret_in_development(tmp_path: Path) -> None:
    settings = _settings(tmp_path, JWT_SECRET=_SECRET, JWT_ALGORITHM="HS256")
    token = signed(header(alg="HS256"), claims(), _SECRET.encode(), "HS256")

    caller = make_verifier(settings, SettableClock()).authenticate(f"Bearer {token}")

    assert caller.sub == "gateway-1"


def test_a_key_set_binds_each_key_to_its_algorithm(tmp_path: Path) -> None:
    """A key without an algorithm gets the configured one."""
    _jwks(
        tmp_path,
        _jwk("ES256", ES256_KEY.public_key(), alg=..., use=...),
        _jwk("EdDSA", ED25519_KEY.public_key(), kid="b"),
        _jwk("PS256", RSA_KEY.public_key(), kid="c"),
    )

    keys = load_keys(_settings(tmp_path, JWT_JWKS_FILE=_JWKS))

    found = {kid: key.algorithm for kid, key in keys.by_id.items()}
    assert found == {"a": "ES256", "b": "EdDSA", "c": "PS256"}
    assert keys.find(None) is None
    assert keys.find("d") is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "jwt-not-configured"),
        ({"JWT_SECRET": _SECRET, "JWT_PUBLIC_KEY_FILE": _PEM}, "jwt-not-configured"),
        ({"JWT_JWKS_FILE": _JWKS, "JWT_PUBLIC_KEY_FILE": _PEM}, "jwt-not-configured"),
        (
            {"JWT_JWKS_URL": "https://x.example/", "JWT_JWKS_FILE": _JWKS},
            "jwt-not-configured",
        ),
        (
            {"JWT_SECRET": _SECRET, "JWT_ALGORITHM": "HS256", "APP_ENV": "production"},
            "jwt-shared-secret",
        ),
        (
            {"JWT_SECRET": _SECRET, "JWT_ALGORITHM": "HS256", "APP_ENV": "staging"},
            "jwt-shared-secret",
        ),
        ({"JWT_SECRET": "s" * 31, "JWT_ALGORITHM": "HS256"}, "jwt-secret-too-short"),
        ({"JWT_SECRET": _SECRET}, "jwt-key-invalid"),
        (
            {"JWT_SECRET": _public_pem(ES256_KEY).decode(), "JWT_ALGORITHM": "HS256"},
            "jwt-key-invalid",
        ),
        ({"JWT_PUBLIC_KEY_FILE": _PEM, "JWT_ALGORITHM": "HS256"}, "jwt-key-invalid"),
        ({"JWT_PUBLIC_KEY_FILE": _PEM, "JWT_ALGORITHM": "RS256"}, "jwt-key-invalid"),
        ({"JWT_PUBLIC_KEY_FILE": "missing.pem"}, "jwt-key-invalid"),
        ({"JWT_PUBLIC_KEY_FILE": "."}, "jwt-key-invalid"),
    ],
)
def test_refuses_an_unsafe_source(
    tmp_path: Path, changes: dict[str, str], code: str
) -> None:
    """H6: the code says whether it is missing, ambiguous, short or of another kind."""
    (tmp_path / _PEM).write_bytes(_public_pem(ES256_KEY))

    with pytest.raises(ConfigurationError) as refusal:
        load_keys(_settings(tmp_path, **changes))

    assert [code] == [line.code for line in refusal.value.refusals]
    assert _SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        _private_pem(ES256_KEY),
        _public_pem(ec.generate_private_key(ec.SECP384R1())),
        _public_pem(ec.generate_private_key(ec.SECP256K1())),
        _public_pem(RSA_KEY),
        b"#" * (64 * 1024 + 1),
    ],
    ids=["empty", "text", "private", "P-384", "secp256k1", "RSA", "too large"],
)
def test_refuses_a_file_with_another_key(tmp_path: Path, content: bytes) -> None:
    (tmp_path / _PEM).write_bytes(content)

    with pytest.raises(ConfigurationError, match="jwt-key-invalid"):
        load_keys(_settings(tmp_path, JWT_PUBLIC_KEY_FILE=_PEM))


def test_refuses_a_short_rsa_key(tmp_path: Path) -> None:
    """RSA begins at 2048 bits (NIST SP 800-131A)."""
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    (tmp_path / _PEM).write_bytes(_public_pem(short))

    with pytest.raises(ConfigurationError, match="jwt-key-invalid"):
        load_keys(_settings(tmp_path, JWT_PUBLIC_KEY_FILE=_PEM, JWT_ALGORITHM="RS256"))


_BAD_ENTRIES: dict[str, Any] = {
    "private": _jwk("ES256", ES256_KEY),
    "symmetric": {"kty": "oct", "kid": "a", "alg": "HS256", "k": "c2VjcmV0"},
    "no kid": _jwk("ES256", ES256_KEY.public_key(), kid=...),
    "kid number": _jwk("ES256", ES256_KEY.public_key(), kid=1),
    "for encryption": _jwk("ES256", ES256_KEY.public_key(), use="enc"),
    "HS256": _jwk("ES256", ES256_KEY.public_key(), alg="HS256"),
    "none": _jwk("ES256", ES256_KEY.public_key(), alg="none"),
    "another kind": _jwk("ES256", ES256_KEY.public_key(), alg="RS256"),
    "alg list": _jwk("ES256", ES256_KEY.public_key(), alg=["ES256"]),
    "short coordinate": _jwk("ES256", ES256_KEY.public_key(), x="AAAA"),
    "secp256k1": _jwk("ES256", ec.generate_private_key(ec.SECP256K1()).public_key()),
    "tiny RSA": _jwk("RS256", RSA_KEY.public_key(), n="AQAB"),
    "empty": {},
    "text": "key",
}


@pytest.mark.parametrize("name", _BAD_ENTRIES)
def test_refuses_a_key_set_with_a_bad_key(tmp_path: Path, name: str) -> None:
    """One bad key invalidates the file."""
    _jwks(
        tmp_path, _jwk("ES256", ES256_KEY.public_key(), kid="good"), _BAD_ENTRIES[name]
    )

    with pytest.raises(ConfigurationError, match="jwt-key-invalid"):
        load_keys(_settings(tmp_path, JWT_JWKS_FILE=_JWKS))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": []}', '{"keys": {}}'])
def test_refuses_an_empty_key_set(tmp_path: Path, text: str) -> None:
    (tmp_path / _JWKS).write_text(text)

    with pytest.raises(ConfigurationError, match="jwt-key-invalid"):
        load_keys(_settings(tmp_path, JWT_JWKS_FILE=_JWKS))


def test_refuses_two_keys_with_one_kid(tmp_path: Path) -> None:
    entry = _jwk("ES256", ES256_KEY.public_key())
    _jwks(tmp_path, entry, entry)

    with pytest.raises(ConfigurationError, match="two keys with one kid"):
        load_keys(_settings(tmp_path, JWT_JWKS_FILE=_JWKS))


def test_repr_omits_the_secret(tmp_path: Path) -> None:
    settings = _settings(tmp_path, JWT_SECRET=_SECRET, JWT_ALGORITHM="HS256")

    assert _SECRET not in repr(load_keys(settings))
