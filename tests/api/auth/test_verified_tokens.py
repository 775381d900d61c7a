"""A token is verified once, and refused as soon as it would be without a memory."""

import gc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from api.auth.jwt_verifier import LEEWAY, MAX_TOKENS, JWTVerifier
from api.auth.verification_keys import VerificationKey, bind
from signer.errors import AuthenticationError
from tests.api.support import (
    AUDIENCE,
    ES256_KEY,
    ISSUER,
    OTHER_KEY,
    SettableClock,
    claims,
    header,
    signed,
    token,
)


ES256 = bind(ES256_KEY.public_key(), "ES256")
OTHER = bind(OTHER_KEY.public_key(), "ES256")


@dataclass
class Keys:
    """Keys that change while the process runs."""

    by_id: dict[str | None, VerificationKey] = field(
        default_factory=lambda: {None: ES256, "a": ES256}
    )

    def find(self, kid: str | None) -> VerificationKey | None:
        return self.by_id.get(kid)

    def known(self) -> Iterator[VerificationKey]:
        yield from self.by_id.values()


class CountingVerifier(JWTVerifier):
    """Counts signatures that were checked."""

    checked = 0

    def _check_signature(self, token: str, key: VerificationKey) -> None:
        self.checked += 1
        super()._check_signature(token, key)


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def verifier(keys: Keys, clock: SettableClock) -> CountingVerifier:
    return CountingVerifier(keys, issuer=ISSUER, audience=AUDIENCE, clock=clock)


def test_a_token_is_verified_once(verifier: CountingVerifier) -> None:
    """Each request gets the same caller; another token is verified itself."""
    good = f"Bearer {token()}"
    callers = [verifier.authenticate(good) for _ in range(5)]
    other = verifier.authenticate(f"Bearer {token(sub='gateway-2')}")

    assert callers == [callers[0]] * 5
    assert (callers[0].sub, other.sub) == ("gateway-1", "gateway-2")
    assert verifier.checked == 2


def test_a_token_expires_all_the_same(
    verifier: CountingVerifier, clock: SettableClock
) -> None:
    """To the second, and also if the clock is set back before its start."""
    good = f"Bearer {token()}"
    verifier.authenticate(good)
    clock.advance(300 + LEEWAY - 1)
    verifier.authenticate(good)
    clock.advance(1)
    with pytest.raises(AuthenticationError, match="token-expired"):
        verifier.authenticate(good)
    clock.advance(-300 - 3 * LEEWAY)
    with pytest.raises(AuthenticationError, match="token-not-yet-valid"):
        verifier.authenticate(good)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ({}, "token-key-unknown"),
        ({"a": OTHER}, "token-signature"),
        ({"a": VerificationKey("ES384", ES256.material)}, "token-algorithm"),
    ],
    ids=["removed", "replaced", "bound to another algorithm"],
)
def test_a_token_ends_with_its_key(
    verifier: CountingVerifier,
    keys: Keys,
    after: Mapping[str | None, VerificationKey],
    reason: str,
) -> None:
    """At the next request; it is accepted again if the key comes back."""
    good = f"Bearer {signed(header(kid='a'), claims())}"
    caller = verifier.authenticate(good)
    before, keys.by_id = keys.by_id, dict(after)
    for _ in range(2):
        with pytest.raises(AuthenticationError, match=reason):
            verifier.authenticate(good)
    keys.by_id = before

    assert verifier.authenticate(good) == caller


def test_an_equal_key_keeps_the_token(verifier: CountingVerifier, keys: Keys) -> None:
    """A refresh of the issuer's keys makes new objects for the same keys."""
    good = f"Bearer {signed(header(kid='a'), claims())}"
    verifier.authenticate(good)
    keys.by_id = {"a": bind(ES256_KEY.public_key(), "ES256")}
    verifier.authenticate(good)

    assert verifier.checked == 1


def test_a_refused_token_is_not_remembered(
    verifier: CountingVerifier, clock: SettableClock
) -> None:
    """It is verified each time; one that is not valid yet is accepted later."""
    wrong = f"Bearer {token()[:-8]}AAAAAAAA"
    for _ in range(2):
        with pytest.raises(AuthenticationError, match="token-signature"):
            verifier.authenticate(wrong)
    clock.advance(-60)
    early = f"Bearer {token()}"
    with pytest.raises(AuthenticationError, match="token-not-yet-valid"):
        verifier.authenticate(early)
    clock.advance(60)

    assert verifier.authenticate(early).sub == "gateway-1"
    assert verifier.checked == 4
    assert len(verifier._verified._tokens) == 1


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_similar_token_is_another_token(
    verifier: CountingVerifier, part: int
) -> None:
    """A remembered token helps no token that differs in one character."""
    good = token()
    verifier.authenticate(f"Bearer {good}")
    parts = good.split(".")
    middle = len(parts[part]) // 2
    other = "A" if parts[part][middle] != "A" else "B"
    parts[part] = parts[part][:middle] + other + parts[part][middle + 1 :]

    with pytest.raises(AuthenticationError):
        verifier.authenticate(f"Bearer {'.'.join(parts)}")


def test_few_tokens_are_remembered(verifier: CountingVerifier) -> None:
    """The oldest one is forgotten first, which costs a verification."""
    first = f"Bearer {token(jti='first')}"
    verifier.authenticate(first)
    for number in range(MAX_TOKENS):
        verifier.authenticate(f"Bearer {token(jti=f'jti-{number}')}")
    verifier.authenticate(f"Bearer {token(jti='jti-7')}")

    assert len(verifier._verified._tokens) == MAX_TOKENS
    verifier.authenticate(first)
    assert len(verifier._verified._tokens) == MAX_TOKENS


def test_the_token_itself_is_not_kept(verifier: CountingVerifier) -> None:
    good = token()
    verifier.authenticate(f"Bearer {good}")
    gc.collect()
    kept = repr(verifier._verified._tokens)

    assert good not in kept
    assert good.split(".")[2] not in kept


def test_threads_share_it(verifier: CountingVerifier) -> None:
    tokens = [f"Bearer {token(jti=f'jti-{number}')}" for number in range(20)]
    with ThreadPoolExecutor(8) as threads:
        callers = list(threads.map(verifier.authenticate, tokens * 10))

    assert [caller.jti for caller in callers] == [f"jti-{n}" for n in range(20)] * 10
