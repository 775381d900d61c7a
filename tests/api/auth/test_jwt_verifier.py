"""Only tokens that are valid in every respect are accepted."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.auth.jwt_verifier import JWTVerifier
from api.auth.verification_keys import KeySet, bind
from api.principal import Principal
from signer.errors import AuthenticationError
from tests.api.forgeries import FORGERIES
from tests.api.support import (
    AUDIENCE,
    ED25519_KEY,
    ES256_KEY,
    ISSUER,
    NOW,
    RSA_KEY,
    SettableClock,
    claims,
    header,
    signed,
    token,
)


def _authenticator(keys: KeySet, clock: SettableClock | None = None) -> JWTVerifier:
    return JWTVerifier(
        keys, issuer=ISSUER, audience=AUDIENCE, clock=clock or SettableClock()
    )


ONE_KEY = KeySet(only=bind(ES256_KEY.public_key(), "ES256"))

TWO_KEYS = KeySet(
    by_id={
        "a": bind(ES256_KEY.public_key(), "ES256"),
        "b": bind(RSA_KEY.public_key(), "RS256"),
    }
)


@pytest.mark.parametrize(
    ("head", "changes"),
    [
        (header(), {}),
        (header(typ="application/at+jwt"), {}),
        (header(typ="JWT"), {}),
        (header(kid="any-name"), {}),
        (header(x5t="AAAA"), {}),
        (header(), {"aud": [AUDIENCE]}),
        (header(), {"client_id": "gateway", "scope": "refunds"}),
    ],
)
def test_accepts_a_valid_token(head: dict[str, Any], changes: dict[str, Any]) -> None:
    """The principal has the token's subject, roles, id and expiry."""
    good = signed(head, claims(roles=["merchant", "admin"], **changes))

    caller = _authenticator(ONE_KEY).authenticate(f"Bearer {good}")

    assert replace(caller, scopes=None, client_id=None) == Principal(
        "gateway-1",
        frozenset({"merchant", "admin"}),
        "0123456789abcdef",
        NOW + timedelta(minutes=5),
    )


@pytest.mark.parametrize(
    ("changes", "scopes"),
    [
        ({}, None),
        ({"scope": None}, None),
        ({"scope": "refunds:read"}, {"refunds:read"}),
        ({"scope": "a keys:rotate !#[]~ a"}, {"a", "keys:rotate", "!#[]~"}),
    ],
)
def test_scopes_are_separated_by_spaces(
    changes: dict[str, Any], scopes: set[str] | None
) -> None:
    """The claim ``scope`` is optional (RFC 8693)."""
    good = signed(header(), claims(**changes))

    assert scopes == _authenticator(ONE_KEY).authenticate(f"Bearer {good}").scopes


@pytest.mark.parametrize("client_id", [None, "gateway", "the shop's gateway ~"])
def test_the_client_id_is_optional(client_id: str | None) -> None:
    """RFC 9068 has the claim; RFC 6749, appendix A.1, its characters."""
    good = signed(header(), claims(client_id=... if client_id is None else client_id))

    assert client_id == _authenticator(ONE_KEY).authenticate(f"Bearer {good}").client_id


@pytest.mark.parametrize("client_id", ["", "a\xa0b", "a" * 257, "é", 7, ["a"], {}])
def test_a_malformed_client_id_refuses_the_token(client_id: Any) -> None:
    """It decides which tenant the caller is."""
    bad = signed(header(), claims(client_id=client_id))

    with pytest.raises(AuthenticationError, match=r"^token-claim-client_id$"):
        _authenticator(ONE_KEY).authenticate(f"Bearer {bad}")


@pytest.mark.parametrize("name", FORGERIES)
def test_refuses_a_forged_token(name: str) -> None:
    """H1, H2, H3, H4, H5, H7: each has its own reason."""
    forged, reason = FORGERIES[name]

    with pytest.raises(AuthenticationError) as refusal:
        _authenticator(ONE_KEY).authenticate(f"Bearer {forged}")

    assert reason == str(refusal.value)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Basic Z2F0ZXdheTpwYXNz", token(), "Bearer", "DPoP x.y.z"],
)
def test_requires_a_bearer_token(authorization: str | None) -> None:
    with pytest.raises(AuthenticationError):
        _authenticator(ONE_KEY).authenticate(authorization)


def test_the_scheme_is_case_insensitive() -> None:
    """``bearer`` is ``Bearer`` (RFC 9110, section 11.1)."""
    caller = _authenticator(ONE_KEY).authenticate(f"bEARER {token()}")

    assert caller.sub == "gateway-1"


@pytest.mark.parametrize(
    ("age", "good"), [(-30, True), (-31, False), (329, True), (330, False)]
)
def test_allows_half_a_minute_of_clock_skew(age: int, good: bool) -> None:
    """H4: a token is valid from 30 s before its time to just under 30 s after."""
    clock = SettableClock()
    clock.advance(age)
    authenticator = _authenticator(ONE_KEY, clock)

    if good:
        assert authenticator.authenticate(f"Bearer {token(NOW)}").sub == "gateway-1"
    else:
        with pytest.raises(AuthenticationError):
            authenticator.authenticate(f"Bearer {token(NOW)}")


def test_finds_the_key_by_its_id() -> None:
    authenticator = _authenticator(TWO_KEYS)
    by_a = signed(header(kid="a"), claims(sub="a"))
    by_b = signed(header(kid="b", alg="RS256"), claims(sub="b"), RSA_KEY, "RS256")

    assert authenticator.authenticate(f"Bearer {by_a}").sub == "a"
    assert authenticator.authenticate(f"Bearer {by_b}").sub == "b"


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        (signed(header(), claims()), "token-key-unknown"),
        (signed(header(kid="c"), claims()), "token-key-unknown"),
        (signed(header(kid="b"), claims()), "token-algorithm"),
        (
            signed(header(kid="a", alg="RS256"), claims(), RSA_KEY, "RS256"),
            "token-algorithm",
        ),
        (
            signed(header(kid="b", alg="RS256"), claims(), ES256_KEY, "ES256"),
            "token-signature",
        ),
        (
            signed(header(kid="b", alg="PS256"), claims(), RSA_KEY, "PS256"),
            "token-algorithm",
        ),
        (
            signed(header(kid="a", alg="EdDSA"), claims(), ED25519_KEY, "EdDSA"),
            "token-algorithm",
        ),
    ],
)
def test_a_key_has_one_algorithm(forged: str, reason: str) -> None:
    """H8: the id of one key with the algorithm of another is refused."""
    with pytest.raises(AuthenticationError) as refusal:
        _authenticator(TWO_KEYS).authenticate(f"Bearer {forged}")

    assert reason == str(refusal.value)


@given(st.text(max_size=300) | st.from_regex(r"Bearer [\w-]+\.[\w-]+\.[\w-]+"))
def test_random_text_raises_no_other_error(authorization: str) -> None:
    with pytest.raises(AuthenticationError):
        _authenticator(ONE_KEY).authenticate(authorization)
