"""The PKCS#11 module in this process: locks, epochs and other users."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ctypes import addressof, c_void_p, sizeof
from pathlib import Path
from threading import Lock

import pytest
from pkcs11 import _pkcs11
from pkcs11._pkcs11 import lib

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11.cryptoki import Library, Locking
from signer.errors import BackendError, BackendUnavailableError
from signer.ports.key_backend import KeyId
from tests.fixtures.cryptoki_faults import CKR_CANT_LOCK, Hook
from tests.fixtures.softhsm import Program, Token
from tests.fixtures.softhsm_programs import sign


@pytest.fixture(autouse=True)
def _fresh(softhsm_library: Library) -> Iterator[None]:
    """Finalize the module before and after each test."""
    _finalize(softhsm_library)
    yield
    _finalize(softhsm_library)


def _finalize(library: Library) -> None:
    with library.lock.exclusive():
        library.finalize()


def test_the_module_is_initialised_once_and_with_locks(token: Token) -> None:
    """python-pkcs11 never calls C_Initialize(NULL)."""
    with token.cryptoki.watched("C_Initialize") as calls:
        token.sign()

    assert len(calls) == 1
    assert calls[0][0] is not None  # CK_C_INITIALIZE_ARGS
    assert token.library.locking is Locking.MODULE


def test_python_pkcs11_has_the_list_of_the_module(token: Token) -> None:
    """Its class is not public, so this test detects changes."""
    with token.library.lock.exclusive():
        token.library.initialize()
    functions = token.library.functions

    assert isinstance(functions._module, lib)
    assert not functions._module.initialized
    assert functions._module.manufacturer_id == "SoftHSM"
    # SoftHSM returns the same list each time.
    assert addressof(functions._pointers) - token.cryptoki._table == sizeof(c_void_p)


def test_a_module_that_cannot_lock_gets_one_call_at_a_time(token: Token) -> None:
    """After CKR_CANT_LOCK and C_Initialize(NULL), a lock surrounds every call."""
    busy, overlaps = Lock(), []

    def cannot_lock(original: Hook, args: int | None, *rest: object) -> int:
        return CKR_CANT_LOCK if args is not None else original(args, *rest)

    def alone(original: Hook, *arguments: object) -> int:
        free = busy.acquire(blocking=False)
        try:
            overlaps.append(not free)
            return original(*arguments)
        finally:
            if free:
                busy.release()

    with (
        token.cryptoki.hooked("C_Initialize", cannot_lock) as calls,
        token.cryptoki.hooked("C_Sign", alone),
    ):
        _in_threads(token.sign, threads=8, times=5)

    assert [arguments[0] is None for arguments in calls] == [False, True]
    assert Locking.SERIALIZED is token.library.locking
    assert len(overlaps) >= 40
    assert not any(overlaps)


def test_signs_in_a_module_that_another_library_initialised(
    softhsm_program: Program,
) -> None:
    """The other library keeps its sessions; our calls are serialised."""
    finished = softhsm_program("share-module")

    assert finished.stderr == ""
    assert finished.stdout == "foreign\n"
    assert finished.returncode == 0


def test_a_new_epoch_invalidates_all_handles(token: Token) -> None:
    """After a reset of the module the backend connects again."""
    before = token.sign(), token.library.epoch
    with token.library.lock.exclusive():
        token.library.reset()

    assert before[1] is not token.library.epoch
    assert before[0] == token.sign()


def test_one_library_per_module_and_process(softhsm_library: Library) -> None:
    """The state of Cryptoki belongs to the process."""
    path = softhsm_library.path

    assert softhsm_library is Library.of(path)
    assert (os.getpid(), path) in Library._all


def test_an_uninitialised_module_is_unavailable() -> None:
    with pytest.raises(BackendUnavailableError):
        _ = Library("/nowhere.so").functions


@pytest.mark.parametrize("content", [None, b"", b"not a library"])
def test_an_invalid_module_does_not_load(tmp_path: Path, content: bytes | None) -> None:
    """The error omits the path of the missing or broken file."""
    path = tmp_path / "module.so"
    if content is not None:
        path.write_bytes(content)
    backend = PKCS11Backend(path, "token", lambda: "1234")

    with pytest.raises(BackendError) as caught:
        backend.public_key(KeyId("01"))

    assert str(caught.value) == "the PKCS#11 module does not load"


def test_a_library_without_the_entry_point_is_no_module() -> None:
    """A shared library without C_GetFunctionList is refused."""
    backend = PKCS11Backend(Path(_pkcs11.__file__), "token", lambda: "1234")

    with pytest.raises(BackendError, match="does not load"):
        backend.public_key(KeyId("01"))


def test_a_uri_names_a_token(token: Token) -> None:
    """By its serial number, since labels may be given twice."""
    token.sign()
    opened = token.backend._session
    serial = token.library.token(opened._token_name).serial
    named = [f"pkcs11:serial={serial}", f"pkcs11:serial={serial};token=other"]
    by_serial, wrong = (
        PKCS11Backend(Path(opened._path), name, opened._pin) for name in named
    )

    assert sign(by_serial, token.key)
    with pytest.raises(BackendUnavailableError, match="no token has"):
        wrong.public_key(token.key)


def test_opening_has_three_attempts(token: Token) -> None:
    """If all of them fail, the next call tries again."""
    backend = PKCS11Backend(
        Path(token.backend._session._path),
        token.backend._session._token_name,
        token.backend._session._pin,
    )
    with (
        token.cryptoki.failing("C_Initialize", CKR_CANT_LOCK) as calls,
        pytest.raises(BackendUnavailableError),
    ):
        backend.public_key(token.key)

    assert len(calls) == 6  # Each attempt with and without locks.
    assert token.sign()


def _in_threads(work: Callable[[], object], *, threads: int, times: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads * times)]:
            done.result()
