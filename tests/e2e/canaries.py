"""
Secrets to plant in configurations, and a detector for them in outputs.

The *core* of a canary is its secret part: of a URL the API key and not the scheme.  The
detector finds it whole and in pieces of twelve characters, in any case, and encoded as
base64, hex, percent-encoding or JSON.  Pieces are longer than eight characters, since
the first eight of a key id may be shown (``signer.redact.key_prefix``).
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import quote

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)


PIECE = 12

_SCALAR = int.from_bytes(hashlib.sha256(b"canary ES256").digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class Canary:
    """A planted secret, and its *core*, which no output may contain."""

    name: str
    value: str = field(repr=False)
    core: str = field(repr=False)

    def spellings(self) -> Iterator[str]:
        """Yield each encoding of the whole core."""
        raw = self.core.encode()
        yield self.core
        yield json.dumps(self.core)[1:-1]
        yield quote(self.core, safe="")
        yield raw.hex()
        for shift in range(3):  # Base64 depends on the position within three bytes.
            text = base64.b64encode(bytes(shift) + raw).decode().rstrip("=")
            # The characters at both ends contain bits of other bytes.
            text = text[shift + 1 if shift else 0 : len(text) - (shift + len(raw)) % 3]
            yield text
            yield text.replace("+", "-").replace("/", "_")

    def pieces(self) -> frozenset[str]:
        """Return all pieces of twelve characters of all encodings."""
        found: set[str] = set()
        for spelling in self.spellings():
            text = spelling.casefold()
            if len(text) >= min(PIECE, len(self.core)):
                found |= _windows(text) if len(text) >= PIECE else {text}
        return frozenset(found)


def _windows(text: str) -> set[str]:
    return {text[at : at + PIECE] for at in range(len(text) - PIECE + 1)}


class Detector:
    """Finds canaries in outputs; ``checked`` counts the pairs of both."""

    def __init__(self, canaries: Iterable[Canary]) -> None:
        self._pieces = {canary.name: canary.pieces() for canary in canaries}
        self._short = [
            (name, piece)
            for name, pieces in self._pieces.items()
            for piece in pieces
            if len(piece) < PIECE
        ]
        self.checked = 0
        self.outputs: list[str] = []

    def found(self, text: str, output: str = "") -> set[str]:
        """Return the names of the canaries in *text*, which is named *output*."""
        self.checked += len(self._pieces)
        self.outputs.append(output)
        folded = text.casefold()
        windows = _windows(folded)
        hits = {name for name, piece in self._short if piece in folded}
        return hits | {
            name
            for name, pieces in self._pieces.items()
            if not pieces.isdisjoint(windows)
        }

    def leaks(self, outputs: Mapping[str, str]) -> dict[str, set[str]]:
        """Return the outputs that contain canaries, with the names of these."""
        judged = {name: self.found(text, name) for name, text in outputs.items()}
        return {name: hits for name, hits in judged.items() if hits}


def _noise(name: str, length: int) -> str:
    """Return lower-case hex derived from *name*."""
    text = hashlib.shake_256(f"canary {name}".encode()).hexdigest((length + 1) // 2)
    return text[:length]


def _word(name: str, length: int = 24) -> str:
    """Return letters and digits derived from *name*."""
    raw = hashlib.shake_256(f"canary word {name}".encode()).digest(length)
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in raw)


_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"

_ACCOUNT = "739105846217"
_OTHER_ACCOUNT = "604928173355"
_REGION = "xy-kanarien-7"
_UUID = "c4a4e1e5-51b3-4f7a-9d20-6be1f0a97c3d"
_MRK = f"mrk-{_noise('mrk', 32)}"
_ROLE = "KanarienRefundSignerRole"


def _pem_of_token_key() -> str:
    key = ec.derive_private_key(_SCALAR, ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _pem_of_audit_key(name: str) -> str:
    seed = hashlib.sha256(name.encode()).digest()
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _body(pem: str, begin: int) -> str:
    """Return the secret part of a key in PEM, without the common beginning."""
    return "".join(pem.splitlines()[1:-1])[begin : begin + 40]


def _token(role: str) -> str:
    key = ec.derive_private_key(_SCALAR, ec.SECP256R1())
    claims = {"iss": "k", "aud": "k", "sub": _word(role), "roles": [role]}
    return jwt.encode(claims, key, "ES256")


def _framed(name: str, core: str, frame: str = "{}") -> Canary:
    """Return a canary whose value is *core* in *frame*."""
    return Canary(name, frame.format(core), core)


def _of_tokens_and_keys() -> Iterator[Canary]:
    yield _framed("pkcs11-pin", _word("pin", 20))
    yield _framed("pkcs11-short-pin", "48213907")
    yield _framed("pkcs11-pin-file", _word("pin-file"), "{}\n")
    yield _framed("pkcs11-so-pin", _word("so-pin"))
    yield _framed("pkcs11-wrong-pin", _word("wrong-pin"))
    yield _framed("cka-id", _noise("cka-id", 64))
    yield _framed("cka-id-missing", _noise("cka-id-missing", 64))
    yield _framed("cka-id-rotated-to", _noise("cka-id-new", 40))
    yield _framed("raw-key", _noise("raw-key", 64), "0x{}")
    yield _framed("raw-key-bare", _noise("raw-key-bare", 64))
    yield _framed("raw-key-upper", _noise("raw-key-upper", 64).upper())
    yield _framed("raw-key-file", _noise("raw-key-file", 64), "{}\n")


def _of_aws() -> Iterator[Canary]:
    yield _framed("aws-account", _ACCOUNT)
    yield _framed("aws-other-account", _OTHER_ACCOUNT)
    yield _framed("aws-region", _REGION)
    yield _framed("kms-key-uuid", _UUID)
    yield _framed("kms-key-mrk", _MRK)
    arn = f"arn:aws:kms:{_REGION}:{_ACCOUNT}"
    yield _framed("kms-key-arn", f"{arn}:key/{_UUID}")
    yield _framed("kms-mrk-arn", f"{arn}:key/{_MRK}")
    yield _framed("kms-alias", f"alias/{_word('alias')}")
    yield _framed("kms-alias-arn", f"{arn}:alias/{_word('alias-arn')}")
    yield _framed("aws-role", _ROLE)
    yield _framed("aws-role-arn", f"arn:aws:iam::{_ACCOUNT}:role/{_ROLE}")
    session = f"assumed-role/{_ROLE}/i-{_noise('session', 17)}"
    yield _framed("aws-session-arn", f"arn:aws:sts::{_ACCOUNT}:{session}")
    yield _framed("aws-user-arn", f"arn:aws:iam::{_OTHER_ACCOUNT}:user/{_word('user')}")
    yield _framed("aws-access-key", f"AKIA{_noise('akia', 16).upper()}")
    yield _framed("aws-session-key", f"ASIA{_noise('asia', 16).upper()}")
    yield _framed("aws-secret-key", f"{_word('s1', 20)}/+{_word('s2', 18)}")
    yield _framed("aws-session-token", f"IQoJ{_word('session-token', 300)}==")
    yield _framed("aws-profile", f"profile-{_word('profile')}")
    yield _framed("kms-grant-token", _word("grant-token", 120))
    yield _framed("kms-endpoint-path", _word("endpoint"), "/{}")


def _of_urls() -> Iterator[Canary]:
    yield _framed("dsn-user", f"u{_noise('dsn-user', 20)}")
    yield _framed("dsn-password", _word("dsn-password"))
    yield _framed("dsn-password-odd", f"{_word('odd', 12)}&%/?{_word('odder', 12)}")
    yield _framed("dsn-database", f"d{_noise('dsn-database', 20)}")
    yield _framed("dsn-host", f"h{_noise('dsn-host', 20)}.invalid")
    yield _framed("rpc-path-key", _word("rpc-path", 32), "/v3/{}")
    yield _framed("rpc-query-key", _word("rpc-query", 32), "/?apikey={}")
    yield _framed("rpc-user", f"n{_noise('rpc-user', 20)}")
    yield _framed("rpc-password", _word("rpc-password"))
    yield _framed("rpc-node-words", f"node {_word('rpc-words')} is overloaded")
    yield _framed("webhook-path-token", _word("webhook", 32), "/services/{}")
    yield _framed("webhook-query-token", _word("webhook-query", 32), "?token={}")


def _of_callers_and_vendors() -> Iterator[Canary]:
    yield Canary("jwt-merchant", *(2 * (_token("merchant"),)))
    yield Canary("jwt-admin", *(2 * (_token("admin"),)))
    pem = _pem_of_token_key()
    yield Canary("jwt-signing-key", pem, _body(pem, 48))
    yield _framed("jwt-hmac-secret", _word("hmac", 48))
    yield _framed("jwks-url-key", _word("jwks", 32), "/keys?k={}")
    yield _framed("session-cookie", _word("cookie", 32), "sid={}")
    pem = _pem_of_audit_key("audit")
    yield Canary("audit-signing-key", pem, _body(pem, 24))
    yield _framed("audit-garbage-key", _word("audit-garbage", 48))
    yield _framed("signature-r", _noise("r", 64), "0x{}")
    yield _framed("signature-s", _noise("s", 64), "0x{}")
    yield _framed("signature-der", f"3045022100{_noise('der', 120)}")
    yield _framed("raw-transaction", f"02f8b2827a69{_noise('raw', 320)}", "0x{}")
    yield _framed("kms-words", f"hsm-fleet {_word('kms-words')} failed")
    yield _framed("database-words", f"relation {_word('db-words')} is locked")


CANARIES: Mapping[str, Canary] = MappingProxyType(
    {
        canary.name: canary
        for group in (_of_tokens_and_keys, _of_aws, _of_urls, _of_callers_and_vendors)
        for canary in group()
    }
)

ALL = " | ".join(canary.value for canary in CANARIES.values())
"""All canaries in one text."""


def value(name: str) -> str:
    return CANARIES[name].value


def core(name: str) -> str:
    """Return the secret part of a canary."""
    return CANARIES[name].core
