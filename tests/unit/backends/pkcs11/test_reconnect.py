"""The token disappears and returns, or refuses the PIN."""

import secrets
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from pkcs11 import Attribute

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11.cryptoki import Library
from backends.pkcs11.functions import Session
from signer.errors import (
    AccessDeniedError,
    BackendUnavailableError,
    KeyNotFoundError,
    SigningError,
)
from signer.ports.key_backend import KeyId
from softhsm.layout import Layout
from tests.fixtures import cryptoki_faults as ckr
from tests.fixtures.softhsm import Token
from tests.fixtures.softhsm_programs import sign
from tests.support.waiting import eventually


@pytest.fixture
def cold(softhsm: PKCS11Backend, softhsm_library: Library) -> Iterator[PKCS11Backend]:
    """A backend in a process that has not initialised the module."""
    with softhsm_library.lock.exclusive():
        softhsm_library.finalize()
    yield _another(softhsm)
    with softhsm_library.lock.exclusive():
        softhsm_library.finalize()


def test_logs_in_once(token: Token, cold: PKCS11Backend) -> None:
    """Many threads that start at once share one C_Login."""
    with token.cryptoki.watched("C_Login") as calls:
        _in_threads(lambda: sign(cold, token.key), times=64)

    assert len(calls) == 1


def test_an_existing_login_is_used(token: Token, cold: PKCS11Backend) -> None:
    """P4: CKR_USER_ALREADY_LOGGED_IN is success."""
    sign(cold, token.key)

    with token.cryptoki.watched("C_Login") as calls:
        assert sign(_another(cold), token.key)

    assert len(calls) == 1


def test_a_logout_by_another_component_is_repaired(token: Token) -> None:
    """P5: closing any session logs the process out; signing continues."""
    token.sign()
    connection = token.backend._session._connection
    assert connection is not None

    # python-pkcs11 logs out if it had the PIN: that is the last session.
    connection._idle[-1].close()

    assert token.sign()
    assert token.backend._session._connection is not connection


def test_the_token_disappears_and_returns(token: Token, softhsm_home: Path) -> None:
    """P6: signing fails meanwhile, and then succeeds without a restart."""
    tokens, away = Layout.of(softhsm_home).tokens, softhsm_home / "away"
    address, stop = token.sign(), Event()
    outcomes: Counter[str] = Counter()

    def traffic() -> None:
        while not stop.is_set():
            try:
                outcomes[token.sign()] += 1
            except BackendUnavailableError as e:
                outcomes[e.code] += 1

    def next_outcomes(expected: str) -> bool:
        before = outcomes[expected]
        return eventually(lambda: outcomes[expected] > before + 8)

    with ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(traffic) for _ in range(8)]
        try:
            assert next_outcomes(address)
            tokens.rename(away)
            try:
                assert next_outcomes("backend-unavailable")
            finally:
                away.rename(tokens)
            assert next_outcomes(address)
        finally:
            stop.set()
        for thread in threads:
            thread.result()

    assert outcomes.keys() == {address, "backend-unavailable"}


def test_a_destroyed_key_is_not_found(softhsm: PKCS11Backend) -> None:
    """A stale handle leads to a search."""
    key_id = softhsm.generate(secrets.token_hex(8))
    sign(softhsm, key_id)
    softhsm.provision(lambda session: _destroy(session, key_id))

    with pytest.raises(KeyNotFoundError):
        softhsm.sign_digest(key_id, secrets.token_bytes(32))


FAULTS = (
    ckr.CKR_SESSION_HANDLE_INVALID,
    ckr.CKR_DEVICE_REMOVED,
    ckr.CKR_TOKEN_NOT_PRESENT,
    ckr.CKR_DEVICE_ERROR,
    ckr.CKR_USER_NOT_LOGGED_IN,
    ckr.CKR_OPERATION_ACTIVE,
    ckr.CKR_OBJECT_HANDLE_INVALID,
    ckr.CKR_KEY_HANDLE_INVALID,
    ckr.CKR_GENERAL_ERROR,
    ckr.CKR_FUNCTION_FAILED,
    ckr.CKR_CRYPTOKI_NOT_INITIALIZED,
)


@pytest.mark.parametrize(
    ("function", "rv"),
    [("C_SignInit", ckr.CKR_DEVICE_REMOVED), *(("C_Sign", each) for each in FAULTS)],
)
def test_a_fault_costs_one_reconnection_and_one_retry(
    token: Token, function: str, rv: int
) -> None:
    """P7: the first fault is repaired; a second one in a row is an error."""
    token.sign()

    with (
        token.cryptoki.watched("C_Initialize") as reconnections,
        token.cryptoki.failing(function, rv, times=1) as calls,
    ):
        assert token.backend.sign_digest(token.key, secrets.token_bytes(32))
    assert (len(reconnections), len(calls)) == (1, 2)

    with (
        token.cryptoki.watched("C_Initialize") as reconnections,
        token.cryptoki.failing(function, rv) as calls,
        pytest.raises(BackendUnavailableError),
    ):
        token.backend.sign_digest(token.key, secrets.token_bytes(32))
    assert (len(reconnections), len(calls)) == (1, 2)

    assert token.sign()


def test_threads_share_a_failed_reconnection(token: Token) -> None:
    """One thread reconnects, and the waiting threads get its error."""
    token.sign()
    lock = token.library.lock

    def fail(*_: object) -> int:
        # A thread that begins after the failure would have a reconnection of its own.
        assert eventually(lambda: len(lock._queue) == 15)
        return ckr.CKR_GENERAL_ERROR

    with (
        token.cryptoki.failing("C_SignInit", ckr.CKR_DEVICE_REMOVED),
        token.cryptoki.hooked("C_Initialize", fail) as attempts,
        ThreadPoolExecutor(16) as pool,
    ):
        outcomes = [
            pool.submit(token.backend.sign_digest, token.key, secrets.token_bytes(32))
            for _ in range(16)
        ]

    assert all(
        isinstance(outcome.exception(), BackendUnavailableError) for outcome in outcomes
    )
    assert len(attempts) == 3
    assert token.sign()


def test_a_wrong_pin_is_tried_once(token: Token, cold: PKCS11Backend) -> None:
    """P8: a hundred requests call C_Login once, and no error shows the PIN."""
    pin = secrets.token_hex(8)
    backend = PKCS11Backend(
        Path(cold._session._path), cold._session._token_name, lambda: pin
    )
    shown = []

    def ask() -> None:
        with pytest.raises(AccessDeniedError) as caught:
            backend.sign_digest(token.key, secrets.token_bytes(32))
        shown.extend(traceback.format_exception(caught.value))

    with token.cryptoki.watched("C_Login") as calls:
        _in_threads(ask, times=100)

    assert len(calls) == 1
    assert pin not in "".join(shown)


@pytest.mark.parametrize("rv", [ckr.CKR_PIN_INCORRECT, ckr.CKR_PIN_LOCKED], ids=hex)
def test_a_refused_pin_is_never_retried(token: Token, rv: int) -> None:
    """P7, P8: also a PIN that was correct before the reconnection."""
    backend = _another(token.backend)
    sign(backend, token.key)

    with (
        token.cryptoki.failing("C_SignInit", ckr.CKR_DEVICE_REMOVED, times=1),
        token.cryptoki.failing("C_Login", rv) as calls,
        pytest.raises(AccessDeniedError),
    ):
        backend.sign_digest(token.key, secrets.token_bytes(32))
    with token.cryptoki.watched("C_Login") as later, pytest.raises(AccessDeniedError):
        backend.sign_digest(token.key, secrets.token_bytes(32))

    assert (len(calls), len(later)) == (1, 0)
    assert token.sign()


@pytest.mark.parametrize(
    "pin",
    [lambda: Path("/nowhere").read_text(), lambda: "\udcff"],
    ids=["file", "text"],
)
def test_an_unreadable_pin_is_no_attempt(
    token: Token, cold: PKCS11Backend, pin: Callable[[], str]
) -> None:
    """A missing or malformed PIN file calls no C_Login."""
    backend = PKCS11Backend(Path(cold._session._path), cold._session._token_name, pin)

    with token.cryptoki.watched("C_Login") as calls, pytest.raises(AccessDeniedError):
        backend.public_key(token.key)

    assert calls == []


def test_a_backend_without_token_does_not_disturb_others(token: Token) -> None:
    """A wrong configuration in the same process does not finalize the module."""
    token.sign()
    misconfigured = PKCS11Backend(
        Path(token.backend._session._path), "elsewhere", lambda: "1234"
    )

    with token.cryptoki.watched("C_Finalize") as calls:
        for _ in range(3):
            with pytest.raises(SigningError):
                misconfigured.public_key(token.key)

    assert calls == []


def _another(backend: PKCS11Backend) -> PKCS11Backend:
    return PKCS11Backend(
        Path(backend._session._path),
        backend._session._token_name,
        backend._session._pin,
    )


def _destroy(session: Session, key_id: KeyId) -> None:
    session.destroy(session.find({Attribute.ID: bytes.fromhex(key_id)}))


def _in_threads(work: Callable[[], object], *, times: int) -> None:
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(work) for _ in range(times)]:
            done.result()
