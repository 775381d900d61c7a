"""The token goes away and comes back, or never lets us in."""

import secrets
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from pkcs11 import Attribute, Session

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11 import keys as pkcs11_keys
from backends.pkcs11.cryptoki import Library
from signer.errors import (
    AccessDeniedError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyUnusableError,
    SigningError,
)
from signer.ports import KeyId
from softhsm import Layout
from tests.fixtures import cryptoki_faults as ckr
from tests.fixtures.cryptoki_faults import Cryptoki
from tests.fixtures.softhsm_programs import sign


@pytest.fixture
def cold(softhsm: PKCS11Backend, softhsm_library: Library) -> Iterator[PKCS11Backend]:
    """A backend in a process that has not touched the module yet."""
    with softhsm_library.lock.exclusive():
        softhsm_library.finalize()
    yield _another(softhsm)
    with softhsm_library.lock.exclusive():
        softhsm_library.finalize()


def test_logs_in_once(
    cold: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """However many threads begin at once, and sign, there is one C_Login."""
    with cryptoki.watched("C_Login") as calls:
        _in_threads(lambda: sign(cold, softhsm_key), times=64)

    assert len(calls) == 1


def test_a_process_that_is_logged_in_already_will_do(
    cold: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """P4: CKR_USER_ALREADY_LOGGED_IN is success, for one backend after another."""
    sign(cold, softhsm_key)

    with cryptoki.watched("C_Login") as calls:
        assert sign(_another(cold), softhsm_key)

    assert len(calls) == 1


def test_somebody_else_logs_the_process_out(
    softhsm: PKCS11Backend, softhsm_key: KeyId
) -> None:
    """P5: a component that closes its session logs all out; signing goes on."""
    sign(softhsm, softhsm_key)
    connection = softhsm._connection
    assert connection is not None

    # What python-pkcs11 does for whoever gave it the PIN.
    connection.session.close()

    assert sign(softhsm, softhsm_key)
    assert softhsm._connection is not connection


def test_the_token_goes_away_and_comes_back(
    softhsm: PKCS11Backend, softhsm_key: KeyId, softhsm_home: Path
) -> None:
    """P6: 503 while it is gone, under traffic, and no restart when it is back."""
    tokens, away = Layout.of(softhsm_home).tokens, softhsm_home / "away"
    address, stop = sign(softhsm, softhsm_key), Event()

    def traffic() -> set[str]:
        seen = set()
        while not stop.is_set():
            try:
                seen.add(sign(softhsm, softhsm_key))
            except BackendUnavailableError as e:
                seen.add(e.code)
        return seen

    with ThreadPoolExecutor(8) as pool:
        outcomes = [pool.submit(traffic) for _ in range(8)]
        stop.wait(0.1)
        tokens.rename(away)
        try:
            stop.wait(0.3)
            with pytest.raises(BackendUnavailableError):
                sign(softhsm, softhsm_key)
        finally:
            away.rename(tokens)
        stop.wait(0.3)
        recovered = sign(softhsm, softhsm_key)
        stop.set()

    assert recovered == address
    seen = set().union(*(outcome.result() for outcome in outcomes))
    assert seen == {address, "backend-unavailable"}


def test_another_key_in_the_place_of_the_first_is_refused(
    softhsm: PKCS11Backend,
) -> None:
    """After a reconnection the public key must be the one that was pinned."""
    label, key_id = secrets.token_hex(8), KeyId(secrets.token_hex(8))
    softhsm.generate(label, key_id)
    sign(softhsm, key_id)
    softhsm.provision(lambda session: _destroy(session, key_id))
    _another(softhsm).generate(label, key_id)

    for _ in range(2):
        with pytest.raises(KeyUnusableError, match="another key than before"):
            softhsm.sign_digest(key_id, secrets.token_bytes(32))


def test_a_key_that_was_destroyed_is_gone(softhsm: PKCS11Backend) -> None:
    """A handle that went stale leads to a search, and that finds nothing."""
    key_id = softhsm.generate(secrets.token_hex(8))
    sign(softhsm, key_id)
    softhsm.provision(lambda session: _destroy(session, key_id))

    with pytest.raises(KeyNotFoundError):
        softhsm.sign_digest(key_id, secrets.token_bytes(32))


@pytest.mark.parametrize("function", ["C_SignInit", "C_Sign"])
@pytest.mark.parametrize(
    "rv",
    [
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
    ],
    ids=hex,
)
def test_a_fault_costs_one_reconnection_and_one_retry(
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
    cryptoki: Cryptoki,
    function: str,
    rv: int,
) -> None:
    """P7: once is repaired, and twice in a row is 503; then all is well again."""
    sign(softhsm, softhsm_key)

    with (
        cryptoki.watched("C_Initialize") as reconnections,
        cryptoki.failing(function, rv, times=1) as calls,
    ):
        assert softhsm.sign_digest(softhsm_key, secrets.token_bytes(32))
    # C_Sign is asked for the length first.
    assert (len(reconnections), len(calls)) == (1, 2 if function == "C_SignInit" else 3)

    with (
        cryptoki.watched("C_Initialize") as reconnections,
        cryptoki.failing(function, rv) as calls,
        pytest.raises(BackendUnavailableError),
    ):
        softhsm.sign_digest(softhsm_key, secrets.token_bytes(32))
    assert (len(reconnections), len(calls)) == (1, 2)

    assert sign(softhsm, softhsm_key)


def test_a_crowd_hears_of_a_dead_token_at_once(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """Threads that wait for a reconnection share its failure, one does the work."""
    sign(softhsm, softhsm_key)

    with (
        cryptoki.failing("C_SignInit", ckr.CKR_DEVICE_REMOVED),
        cryptoki.failing("C_Initialize", ckr.CKR_GENERAL_ERROR) as attempts,
        ThreadPoolExecutor(16) as pool,
    ):
        outcomes = [
            pool.submit(softhsm.sign_digest, softhsm_key, secrets.token_bytes(32))
            for _ in range(16)
        ]

    assert all(
        isinstance(outcome.exception(), BackendUnavailableError) for outcome in outcomes
    )
    assert len(attempts) <= 2 * 3  # Whoever comes too late for one shares the next.
    assert sign(softhsm, softhsm_key)


def test_a_wrong_pin_is_tried_once(
    cold: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """P8: a hundred requests make one C_Login, and none shows the PIN."""
    pin = secrets.token_hex(8)
    backend = PKCS11Backend(Path(cold._path), cold._token_label, lambda: pin)
    shown = []

    def ask() -> None:
        with pytest.raises(AccessDeniedError) as caught:
            backend.sign_digest(softhsm_key, secrets.token_bytes(32))
        shown.extend(traceback.format_exception(caught.value))

    with cryptoki.watched("C_Login") as calls:
        _in_threads(ask, times=100)

    assert len(calls) == 1
    assert pin not in "".join(shown)


@pytest.mark.parametrize("rv", [ckr.CKR_PIN_INCORRECT, ckr.CKR_PIN_LOCKED], ids=hex)
def test_a_refused_pin_is_not_retried_after_a_reconnection(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki, rv: int
) -> None:
    """P7, P8: a PIN that stops to be right is refused for the process's life."""
    backend = _another(softhsm)
    sign(backend, softhsm_key)

    with (
        cryptoki.failing("C_SignInit", ckr.CKR_DEVICE_REMOVED, times=1),
        cryptoki.failing("C_Login", rv) as calls,
        pytest.raises(AccessDeniedError),
    ):
        backend.sign_digest(softhsm_key, secrets.token_bytes(32))
    with cryptoki.watched("C_Login") as later, pytest.raises(AccessDeniedError):
        backend.sign_digest(softhsm_key, secrets.token_bytes(32))

    assert (len(calls), len(later)) == (1, 0)
    assert sign(softhsm, softhsm_key)


@pytest.mark.parametrize(
    "pin",
    [lambda: Path("/nowhere").read_text(), lambda: "\udcff"],
    ids=["file", "text"],
)
def test_a_pin_that_cannot_be_had_is_no_attempt(
    cold: PKCS11Backend,
    softhsm_key: KeyId,
    cryptoki: Cryptoki,
    pin: Callable[[], str],
) -> None:
    """A missing or garbled PIN file costs none of the token's attempts."""
    backend = PKCS11Backend(Path(cold._path), cold._token_label, pin)

    with cryptoki.watched("C_Login") as calls, pytest.raises(AccessDeniedError):
        backend.public_key(softhsm_key)

    assert calls == []


def test_a_token_of_another_name_is_not_there(
    cold: PKCS11Backend, softhsm_key: KeyId
) -> None:
    """A token that is not found may come back, and the message names no label."""
    backend = PKCS11Backend(Path(cold._path), "elsewhere", lambda: "1234")

    with pytest.raises(BackendUnavailableError) as caught:
        backend.public_key(softhsm_key)

    assert "elsewhere" not in str(caught.value)


def test_a_backend_without_token_takes_nothing_from_another(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """A mistaken configuration in the same process does not disturb who signs."""
    sign(softhsm, softhsm_key)
    mistaken = PKCS11Backend(Path(softhsm._path), "elsewhere", lambda: "1234")

    with cryptoki.watched("C_Finalize") as calls:
        for _ in range(3):
            with pytest.raises(SigningError):
                mistaken.public_key(softhsm_key)

    assert calls == []


def _another(backend: PKCS11Backend) -> PKCS11Backend:
    return PKCS11Backend(Path(backend._path), backend._token_label, backend._pin)


def _destroy(session: Session, key_id: KeyId) -> None:
    attributes = {Attribute.ID: bytes.fromhex(key_id)}
    pkcs11_keys.destroy(list(session.get_objects(attributes)))


def _in_threads(work: Callable[[], object], *, times: int) -> None:
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(work) for _ in range(times)]:
            done.result()
