"""
Invalid tokens, each with the reason in the log.

Most have a valid signature.  They cover H1 to H5 and H7; H6 and H8 concern keys
(``test_jwks.py``), H9 and H10 valid tokens in the wrong
place (``test_authorization.py``).
"""

import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.api.support import (
    AUDIENCE,
    ED25519_KEY,
    ES256_KEY,
    ISSUER,
    NOW,
    OTHER_KEY,
    RSA_KEY,
    claims,
    header,
    segment,
    signed,
)


_T = int(NOW.timestamp())


def _claims(**changes: Any) -> str:
    return signed(header(), claims(**changes))


def _head(**changes: Any) -> str:
    return signed(header(**changes), claims())


def _hmac(secret: bytes) -> str:
    text = f"{segment(header(alg='HS256'))}.{segment(claims())}"
    digest = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{segment(digest)}"


def _public(encoding: Encoding) -> bytes:
    return ES256_KEY.public_key().public_bytes(
        encoding, PublicFormat.SubjectPublicKeyInfo
    )


def _payload(extra: str) -> str:
    return signed(header(), (json.dumps(claims())[:-1] + extra + "}").encode())


def _unsigned(alg: Any) -> str:
    return f"{segment(header(alg=alg))}.{segment(claims())}."


def _resigned(token: str) -> str:
    text, _, signature = token.rpartition(".")
    return f"{text}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def _with_transfer_of(token: str, payload: str) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{payload}.{signature}"


_GOOD = signed(header(), claims())

FORGERIES: dict[str, tuple[str, str]] = {
    # H1: the service chooses the algorithm.
    "alg none": (_unsigned("none"), "token-malformed"),
    "alg None, with a signature": (_head(alg="None"), "token-algorithm"),
    "alg none, with a signature": (_head(alg="none"), "token-algorithm"),
    "alg missing": (_head(alg=...), "token-algorithm"),
    "alg null": (_head(alg=None), "token-algorithm"),
    "alg list": (_head(alg=["ES256"]), "token-algorithm"),
    "alg in lower case": (_head(alg="es256"), "token-algorithm"),
    "HS256 with the public key's PEM": (
        _hmac(_public(Encoding.PEM)),
        "token-algorithm",
    ),
    "HS256 with the public key's DER": (
        _hmac(_public(Encoding.DER)),
        "token-algorithm",
    ),
    "another algorithm's key": (
        signed(header(alg="RS256"), claims(), RSA_KEY, "RS256"),
        "token-algorithm",
    ),
    "our alg, another algorithm's key": (
        signed(header(), claims(), ED25519_KEY, "EdDSA"),
        "token-signature",
    ),
    "another key": (signed(header(), claims(), OTHER_KEY), "token-signature"),
    "one byte of the signature": (_resigned(_GOOD), "token-signature"),
    "a signature of zeros": (
        _GOOD.rpartition(".")[0] + "." + segment(bytes(64)),
        "token-signature",
    ),
    "an empty signature": (_GOOD.rpartition(".")[0] + ".", "token-malformed"),
    "a signature in DER": (
        _GOOD.rpartition(".")[0] + "." + segment(b"\x30\x06\x02\x01\x01\x02\x01\x01"),
        "token-signature",
    ),
    "another token's payload": (
        _with_transfer_of(_GOOD, segment(claims(sub="gateway-2"))),
        "token-signature",
    ),
    # H2: every claim is required.
    **{
        f"no {name}": (_claims(**{name: ...}), f"token-claim-{name}")
        for name in ("exp", "iat", "nbf", "iss", "aud", "sub", "jti", "roles")
    },
    # H3: audience, issuer and type.
    "another issuer": (_claims(iss=ISSUER + "/"), "token-issuer"),
    "issuer list": (_claims(iss=[ISSUER]), "token-claim-iss"),
    "another audience": (_claims(aud="other"), "token-audience"),
    "ours and another audience": (_claims(aud=[AUDIENCE, "other"]), "token-audience"),
    "our audience twice": (_claims(aud=[AUDIENCE, AUDIENCE]), "token-audience"),
    "no audience in the list": (_claims(aud=[]), "token-audience"),
    "audience with a space": (_claims(aud=AUDIENCE + " "), "token-audience"),
    "typ missing": (_head(typ=...), "token-type"),
    "typ of an ID token": (_head(typ="id_token"), "token-type"),
    "typ of a logout token": (_head(typ="logout+jwt"), "token-type"),
    "typ list": (_head(typ=["at+jwt"]), "token-type"),
    "typ object": (_head(typ={"at+jwt": 1}), "token-type"),
    # H4: short lifetimes in whole seconds.
    "expired": (_claims(iat=_T - 330, nbf=_T - 330, exp=_T - 30), "token-expired"),
    "lives too long": (_claims(exp=_T + 301), "token-lifetime"),
    "ends before it begins": (_claims(exp=_T - 1), "token-lifetime"),
    "ends as it begins": (_claims(exp=_T), "token-lifetime"),
    "exp in the far future": (_claims(exp=10**30), "token-lifetime"),
    "exp 1e30": (_payload(', "x": 1e30'), "token-json"),
    "exp as text": (_claims(exp=str(_T + 300)), "token-claim-exp"),
    "exp true": (_claims(exp=True), "token-claim-exp"),
    "exp null": (_claims(exp=None), "token-claim-exp"),
    "exp with a fraction": (_claims(exp=_T + 299.5), "token-json"),
    "not yet issued": (_claims(iat=_T + 31, exp=_T + 300), "token-not-yet-valid"),
    "not yet valid": (_claims(nbf=_T + 31), "token-not-yet-valid"),
    # H5: strict JSON.
    "roles twice": (_payload(', "roles": ["admin"]'), "token-json"),
    "sub twice, once escaped": (_payload(', "su\\u0062": "x"'), "token-json"),
    "NaN": (_payload(', "x": NaN'), "token-json"),
    "deep payload": (_payload(', "x": ' + "[" * 900 + "]" * 900), "token-json"),
    "payload list": (signed(header(), b"[]"), "token-json"),
    "payload no JSON": (signed(header(), b"sub=gateway"), "token-json"),
    "payload with a byte order mark": (
        signed(header(), b"\xef\xbb\xbf" + json.dumps(claims()).encode()),
        "token-json",
    ),
    "alg twice": (
        signed(b'{"typ":"at+jwt","alg":"ES256","alg":"ES256"}', claims()),
        "token-json",
    ),
    "deep header": (signed(b"[" * 5000, claims()), "token-json"),
    "header list": (signed(b"[]", claims()), "token-json"),
    # H7: no header may refer to a key or change the processing.
    "kid path": (_head(kid="../../dev/null"), "token-key-id"),
    "kid SQL": (_head(kid="' OR 1=1 --"), "token-key-id"),
    "kid with a NUL": (_head(kid="a\x00b"), "token-json"),
    "kid number": (_head(kid=1), "token-key-id"),
    "kid null": (_head(kid=[]), "token-key-id"),
    "kid empty": (_head(kid=""), "token-key-id"),
    "kid of 10 kB": (_head(kid="k" * 10_000), "token-too-large"),
    "kid of 1 kB": (_head(kid="k" * 1000), "token-key-id"),
    **{
        f"{name} present": (_head(**{name: value}), "token-header")
        for name, value in {
            "jku": "http://127.0.0.1:9/jwks.json",
            "jwk": {"kty": "oct", "k": "AAAA"},
            "x5u": "http://127.0.0.1:9/cert.pem",
            "x5c": ["AAAA"],
            "crit": ["exp"],
            "b64": False,
            "zip": "DEF",
            "cty": "JWT",
        }.items()
    },
    # Subjects and roles.
    "sub empty": (_claims(sub=""), "token-claim-sub"),
    "sub too long": (_claims(sub="s" * 129), "token-claim-sub"),
    "sub with a space": (_claims(sub="gateway 1"), "token-claim-sub"),
    "sub outside ASCII": (_claims(sub="gäteway"), "token-claim-sub"),
    "sub number": (_claims(sub=1), "token-claim-sub"),
    "sub with a line break": (_claims(sub="a\nb"), "token-json"),
    "jti empty": (_claims(jti=""), "token-claim-jti"),
    "unknown role": (_claims(roles=["merchant", "root"]), "token-claim-roles"),
    "roles text": (_claims(roles="merchant"), "token-claim-roles"),
    "roles object": (_claims(roles={"merchant": True}), "token-claim-roles"),
    "role in capitals": (_claims(roles=["Merchant"]), "token-claim-roles"),
    "too many roles": (_claims(roles=["merchant"] * 17), "token-claim-roles"),
    # Scopes (RFC 6749, section 3.3).
    **{
        f"scope {what}": (_claims(scope=scope), "token-claim-scope")
        for what, scope in {
            "empty": "",
            "of spaces": " ",
            "with two spaces": "refunds:read  refunds:write",
            "with a space at the end": "refunds:read ",
            "with a quote": 'refunds:"read"',
            "with a backslash": "refunds\\read",
            "outside ASCII": "refünds",
            "too long": "s" * 1025,
            "null in a list": [None],
            "list": ["refunds:read"],
            "object": {"refunds:read": True},
            "number": 1,
        }.items()
    },
    "scope with a line break": (_claims(scope="refunds:read\n"), "token-json"),
    "scope twice": (_payload(', "scope": "a", "scope": "keys:rotate"'), "token-json"),
    # The form of a token.
    "two segments": (_GOOD.rpartition(".")[0], "token-malformed"),
    "four segments": (_GOOD + ".AAAA", "token-malformed"),
    "padding": (_GOOD + "=", "token-malformed"),
    "two tokens": (f"{_GOOD},Bearer {_GOOD}", "token-malformed"),
    "a second space": (" " + _GOOD, "token-malformed"),
    "loose bits at the end": (_GOOD[:-1] + "_", "token-signature"),
    "too large": (_claims(extra="x" * 9000), "token-too-large"),
}
