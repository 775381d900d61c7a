"""The keys that verify tokens: one source, new ones at once, removed ones later."""

import io
import json
import secrets
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
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

from api.auth.jwks import RemoteKeys
from api.auth.jwt_verifier import JWTVerifier
from api.auth.verification_keys import MAX_BYTES, load_keys
from api.backend_factories import open_token_keys
from backends.jwks_client import JWKSClient
from signer.config.settings import Settings
from signer.errors import AuthenticationError, ConfigurationError
from signer.ports.outside_services import KeySetError
from tests.api.issuer import Answer, Issuer, document, jwk, slow
from tests.api.support import (
    AUDIENCE,
    ED25519_KEY,
    ES256_KEY,
    ISSUER,
    OTHER_KEY,
    RSA_KEY,
    SettableClock,
    claims,
    header,
    lines,
    make_verifier,
    signed,
)
from tests.fixtures.tls_server import self_signed
from tests.support.waiting import Timer, eventually


A = jwk("ES256", ES256_KEY, "a")

B = jwk("EdDSA", ED25519_KEY, "b")

_OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        issuer.publish(A)
        yield issuer
    _join_fetches()  # Their events belong to the log of this test.


def _client(issuer: Issuer, timeout: float = 4.0, **changes: Any) -> JWKSClient:
    options = {"allow_http": True, "max_bytes": MAX_BYTES} | changes
    return JWKSClient(issuer.url, timeout=timeout, **options)


@pytest.fixture
def keys(issuer: Issuer, timer: Timer) -> RemoteKeys:
    return RemoteKeys.open(_client(issuer), "ES256", timer)


def _events(log: io.StringIO, name: str) -> list[dict[str, Any]]:
    return [line for line in lines(log) if line["event"] == name]


def _join_fetches() -> None:
    for thread in threading.enumerate():
        if thread.name == "jwks":
            thread.join(10)


def test_verifies_a_token_with_keys_from_a_url(issuer: Issuer) -> None:
    environ = {"APP_ENV": "test", "JWT_ISSUER": ISSUER, "JWT_JWKS_URL": issuer.url}
    settings = Settings.from_env(environ)
    authenticator = JWTVerifier(
        open_token_keys(settings),
        issuer=ISSUER,
        audience=settings.jwt_audience,
        clock=SettableClock(),
    )
    good = signed(header(kid="a"), claims())
    nameless = signed(header(), claims())

    assert authenticator.authenticate(f"Bearer {good}").sub == "gateway-1"
    with pytest.raises(AuthenticationError, match="token-key-unknown"):
        authenticator.authenticate(f"Bearer {nameless}")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"JWT_PUBLIC_KEY_FILE": "key.pem"}, "jwt-not-configured"),
        ({"JWT_ALGORITHM": "HS256"}, "jwt-key-invalid"),
        ({"APP_ENV": "production"}, "jwt-url-insecure"),
        ({"APP_ENV": "staging"}, "jwt-url-insecure"),
        ({"JWT_JWKS_URL": "http://issuer.example/jwks"}, "jwt-url-insecure"),
        ({"JWT_JWKS_URL": "http://127.0.0.1.example/jwks"}, "jwt-url-insecure"),
        ({"JWT_JWKS_URL": "https://canary@issuer.example/"}, "jwt-url-insecure"),
        ({"JWT_JWKS_URL": "https:///jwks"}, "jwt-url-insecure"),
        ({"JWT_JWKS_URL": "https://issuer.example:x/"}, "jwt-url-insecure"),
        ({"JWT_JWKS_URL": "https://issuer.example/ö"}, "jwt-url-insecure"),
        ({"JWT_JWKS_URL": "file:///etc/passwd"}, "jwt-url-insecure"),
        ({"JWT_JWKS_URL": "http://127.0.0.1:1/canary"}, "jwt-keys-unreachable"),
        ({"JWT_JWKS_URL": "http://localhost:1/canary"}, "jwt-keys-unreachable"),
    ],
)
def test_refuses_an_unsafe_url(
    issuer: Issuer, changes: dict[str, str], code: str
) -> None:
    """Keys need TLS, except from loopback outside production."""
    environ = {"APP_ENV": "test", "JWT_JWKS_URL": issuer.url} | changes

    with pytest.raises(ConfigurationError) as refusal:
        open_token_keys(Settings.from_env(environ))

    assert [code] == [line.code for line in refusal.value.refusals]
    assert "canary" not in str(refusal.value)


def test_a_new_key_is_accepted_at_once(
    keys: RemoteKeys, issuer: Issuer, timer: Timer
) -> None:
    """H11: a token of a newly published key is accepted at its first use."""
    issuer.publish(A, B)
    timer.now += 61

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: keys.find("b"), range(16)))

    assert all(found)
    assert keys.find("a") is not None
    assert issuer.requests == 2


def test_key_rollover_refuses_no_token(
    keys: RemoteKeys, issuer: Issuer, timer: Timer
) -> None:
    """
    H11: while old key and new one overlap, every token is accepted.

    The new one is published ten seconds after the keys were fetched because of their
    age, and used ten seconds later: that it is unknown is another reason to ask.
    """
    missed = 0
    for second in range(0, 1800, 10):
        timer.now += 10
        if second == 600:
            issuer.publish(A, B)
        missed += keys.find("a") is None
        missed += second >= 610 and keys.find("b") is None
        _join_fetches()

    assert missed == 0
    # At first, after 300 s and 600 s, for the new one, and thrice 300 s after that.
    assert issuer.requests == 7


def test_finds_a_key_published_during_a_refresh(
    keys: RemoteKeys, issuer: Issuer, timer: Timer
) -> None:
    """H11: if a refresh began before the key was published, another one follows."""
    asked, publish = threading.Event(), threading.Event()
    too_early = issuer.answer

    def held(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        publish.wait(5)
        too_early(handler)

    issuer.answer = held
    timer.now += 300
    keys.find("a")
    asked.wait(5)
    issuer.publish(A, B)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(keys.find, "b")
        publish.set()

        assert found.result(10) is not None
    assert issuer.requests == 3


def test_a_removed_key_is_refused_after_the_next_refresh(
    keys: RemoteKeys, issuer: Issuer, timer: Timer
) -> None:
    """H11: a key that the issuer removed is accepted for at most five minutes."""
    issuer.publish(B)
    timer.now += 299
    before = keys.find("a")
    timer.now += 1

    assert before is not None
    assert eventually(lambda: keys.find("a") is None)
    assert keys.find("b") is not None
    # If the refresh ended during a lookup, the next lookup fetches again.
    assert keys.find("a") is None
    assert issuer.requests == 3


def test_stale_keys_end_tokens_that_were_verified(
    issuer: Issuer, timer: Timer, keys: RemoteKeys
) -> None:
    verifier = JWTVerifier(
        keys, issuer=ISSUER, audience=AUDIENCE, clock=SettableClock()
    )
    good = f"Bearer {signed(header(kid='a'), claims())}"
    verifier.authenticate(good)
    issuer.fail()
    timer.now += 3661

    with pytest.raises(AuthenticationError, match="token-keys-stale"):
        verifier.authenticate(good)


def test_refreshes_first_after_an_idle_period(
    keys: RemoteKeys, issuer: Issuer, timer: Timer
) -> None:
    """H11: a key that was removed during an idle period is never accepted."""
    issuer.publish(B)
    timer.now += 601

    assert keys.find("a") is None


def test_a_refresh_by_age_delays_no_request(issuer: Issuer, timer: Timer) -> None:
    server = _client(issuer, timeout=30.0)
    keys = RemoteKeys.open(server, "ES256", timer)
    issuer.answer = slow(b"", b"")
    timer.now += 300
    started = time.perf_counter()
    found = keys.find("a")

    assert found is not None
    assert time.perf_counter() - started < 15
    assert eventually(lambda: issuer.requests == 2)


def test_keeps_keys_during_an_outage_of_the_issuer(
    keys: RemoteKeys, issuer: Issuer, timer: Timer, log: io.StringIO
) -> None:
    """H11: during an outage the keys stay valid, with one request a minute."""
    issuer.fail()
    missed = 0
    for _ in range(90):
        timer.now += 10
        missed += keys.find("a") is None
        assert eventually(lambda: keys._refresh_done is None)

    assert missed == 0
    assert issuer.requests == 1 + 11
    assert {e["reason"] for e in _events(log, "jwks-not-refreshed")} == {"status-503"}


def _no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_keeps_keys_if_no_thread_can_be_started(
    keys: RemoteKeys,
    issuer: Issuer,
    timer: Timer,
    log: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next attempt follows after a minute."""
    issuer.publish(A, B)
    timer.now += 300
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _no_thread)
        kept, unknown = keys.find("a"), keys.find("b")
    timer.now += 60

    assert kept is not None
    assert unknown is None
    assert keys.find("b") is not None
    assert {e["reason"] for e in _events(log, "jwks-not-refreshed")} == {"no-thread"}


def test_keys_expire_after_an_hour(
    keys: RemoteKeys, issuer: Issuer, timer: Timer, log: io.StringIO
) -> None:
    """H11: after an hour all tokens are refused until the issuer responds again."""
    issuer.fail()
    timer.now += 3600
    last = keys.find("a")
    timer.now += 61
    with pytest.raises(AuthenticationError, match="token-keys-stale"):
        keys.find("a")
    with pytest.raises(AuthenticationError, match="token-keys-stale"):
        keys.find("unknown")
    issuer.publish(A)
    timer.now += 60

    assert last is not None
    assert _events(log, "jwks-not-refreshed")[-1]["level"] == "error"
    assert keys.find("a") is not None


def test_unknown_kids_cause_one_request_a_minute(
    keys: RemoteKeys, issuer: Issuer, timer: Timer
) -> None:
    """H7: a thousand tokens with unknown kids cause one fetch a minute."""
    asked = []
    for _ in range(3):
        timer.now += 60
        with ThreadPoolExecutor(8) as pool:
            kids = [secrets.token_hex(8) for _ in range(1000)]
            found = set(pool.map(keys.find, kids))
        asked.append(issuer.requests)

    assert found == {None}
    assert asked == [2, 3, 4]


@pytest.mark.parametrize(
    "other",
    [
        jwk("ES256", OTHER_KEY, "a"),
        jwk("RS256", RSA_KEY, "a"),
        jwk("EdDSA", ED25519_KEY, "a"),
    ],
    ids=["another key", "another kind", "another algorithm"],
)
@pytest.mark.parametrize("between", [(), ((B,),)], ids=["at once", "after a while"])
def test_a_kid_cannot_be_reused(
    keys: RemoteKeys,
    issuer: Issuer,
    timer: Timer,
    log: io.StringIO,
    other: Any,
    between: tuple[tuple[Any, ...], ...],
) -> None:
    """H8: a kid that comes back as another key is refused, and logged."""
    for published in (*between, (other, B)):
        issuer.publish(*published)
        timer.now += 601
        keys.find("b")

    assert keys.find("a") is None
    assert keys.find("b") is not None
    assert {e["kid"] for e in _events(log, "jwks-key-changed")} == {"a"}


def test_a_key_cannot_change_its_algorithm(issuer: Issuer, timer: Timer) -> None:
    """H8: an RSA key with a kid does not change from RS256 to PS256."""
    issuer.publish(jwk("RS256", RSA_KEY, "r"), A)
    keys = RemoteKeys.open(_client(issuer), "ES256", timer)
    issuer.publish(jwk("PS256", RSA_KEY, "r"), A)
    timer.now += 601

    assert keys.find("r") is None
    issuer.publish(jwk("RS256", RSA_KEY, "r"), A)
    timer.now += 601
    assert keys.find("r") is not None


_BAD: dict[str, tuple[Answer, str]] = {
    "error": (document({}, 500), "status-500"),
    "no content": (document(b"", 204), "status-204"),
    "moved": (document({"keys": [A]}, 302, Location="/jwks"), "status-302"),
    "moved for good": (document({}, 308, Location="https://x.example"), "status-308"),
    "too large": (document(b" " * 65537), "too-large"),
    "endless": (slow(_OK + b"\r\n", b"x" * 65536), "too-large"),
    "web page": (document(b"<html>login</html>"), "malformed"),
    "packed": (document(b"\x1f\x8b", **{"Content-Encoding": "gzip"}), "malformed"),
    "list": (document(b"[]"), "malformed"),
    "no member keys": (document({}), "malformed"),
    "keys no list": (document({"keys": {"a": A}}), "malformed"),
    "keys twice": (document(b'{"keys": [], "keys": []}'), "malformed"),
    "deep": (document(b'{"keys": ' + b"[" * 9000), "malformed"),
    "cut off": (document(b'{"keys": [{"kid": "a"'), "malformed"),
    "no HTTP": (slow(b"SSH-2.0-OpenSSH\r\n\r\n", b"x\n"), "unreachable"),
    "no keys": (document({"keys": []}), "no-keys"),
    "no usable key": (document({"keys": [A | {"use": "enc"}]}), "no-keys"),
    "two of one name": (document({"keys": [A, A]}), "duplicate-kid"),
    "symmetric": (
        document({"keys": [A, {"kty": "oct", "kid": "s", "k": "c2VjcmV0"}]}),
        "secret-key",
    ),
    "symmetric by alg": (
        document({"keys": [A, {"k": "AA", "kid": "s"}]}),
        "secret-key",
    ),
    "private": (document({"keys": [A, B | {"d": "AAAA"}]}), "secret-key"),
    "dripping body": (slow(_OK + b"\r\n", b" "), "too-slow"),
    "dripping header": (slow(_OK, b"X: y\r\n"), "too-slow"),
    "dripping line": (slow(_OK + b"X: ", b"y"), "too-slow"),
    "silent": (slow(b"", b""), "too-slow"),
    "hanging up": (lambda _: None, "unreachable"),
}


@pytest.mark.parametrize("name", _BAD)
def test_keeps_keys_after_an_unusable_response(
    issuer: Issuer, timer: Timer, log: io.StringIO, name: str
) -> None:
    keys = RemoteKeys.open(_client(issuer, timeout=30.0), "ES256", timer)
    issuer.answer, reason = _BAD[name]
    # Who answers at once may be late on a busy machine; who never ends is waited for.
    keys._fetch = _client(issuer, timeout=0.6 if reason == "too-slow" else 30.0)
    timer.now += 601
    started = time.perf_counter()
    found = keys.find("a")

    assert time.perf_counter() - started < 15
    assert found is not None
    (event,) = _events(log, "jwks-not-refreshed")
    assert (event["reason"], event["level"]) == (reason, "warning")


@pytest.mark.parametrize("name", ["error", "web page", "symmetric", "silent"])
def test_refuses_to_start_without_keys(issuer: Issuer, name: str) -> None:
    issuer.answer, reason = _BAD[name]

    with pytest.raises(ConfigurationError, match="jwt-keys-unreachable") as refusal:
        RemoteKeys.open(_client(issuer, timeout=0.3), "ES256")
    assert reason in str(refusal.value)
    assert issuer.url not in str(refusal.value)


def test_skips_unusable_keys(issuer: Issuer) -> None:
    """Issuers publish keys for other purposes too; these verify no token."""
    issuer.publish(
        jwk("ES256", ES256_KEY, "bare", alg=..., use=...),
        jwk("PS256", RSA_KEY, "ps"),
        jwk("RS256", RSA_KEY, "enc", use="enc", alg="RSA-OAEP"),
        jwk("RS256", RSA_KEY, "oaep", alg="RSA-OAEP"),
        jwk("ES256", ES256_KEY, "hs", alg="HS256"),
        jwk("ES256", ES256_KEY, "none", alg="none"),
        jwk("ES256", ES256_KEY, "list", alg=["ES256"]),
        jwk("ES256", ec.generate_private_key(ec.SECP256K1()), "k1"),
        jwk("ES256", ES256_KEY, "short", x="AAAA"),
        jwk("ES256", ES256_KEY, "../etc"),
        jwk("ES256", ES256_KEY, kid=...),
        "text",
        {},
    )
    keys = RemoteKeys.open(_client(issuer), "ES256")

    algorithms = {kid: key.algorithm for kid, key in keys._keys.items()}
    assert algorithms == {"bare": "ES256", "ps": "PS256"}


def test_checks_the_certificate_of_the_issuer(tmp_path: Path) -> None:
    trust = self_signed(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "fullchain.pem", tmp_path / "privkey.pem")
    with Issuer(tls) as issuer:
        issuer.publish(A)
        trusting = _client(issuer, allow_http=False, tls=trust)
        untrusting = _client(issuer, allow_http=False)

        assert b'"kid": "a"' in trusting()
        with pytest.raises(KeySetError, match="unreachable"):
            untrusting()


# The keys that verify tokens: from one source, with one algorithm each.

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
