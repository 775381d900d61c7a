"""The module in this process: its locks, its epochs, and who else uses it."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import pkcs11
import pytest
from pkcs11._pkcs11 import lib

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11.cryptoki import Library, Locking
from signer.errors import BackendError, BackendUnavailableError
from signer.ports import KeyId
from tests.fixtures.cryptoki_faults import CKR_CANT_LOCK, Cryptoki, Hook
from tests.fixtures.softhsm import Program
from tests.fixtures.softhsm_programs import sign


@pytest.fixture(autouse=True)
def _fresh(softhsm_library: Library) -> Iterator[None]:
    """Every test finds the module down, and leaves it down."""
    _take_down(softhsm_library)
    yield
    _take_down(softhsm_library)


def _take_down(library: Library) -> None:
    with library.lock.exclusive():
        library.finalize()


def test_the_module_is_initialised_once_and_with_locks(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """python-pkcs11's C_Initialize(NULL) never happens: its override holds."""
    with cryptoki.watched("C_Initialize") as calls:
        sign(softhsm, softhsm_key)

    assert len(calls) == 1
    assert calls[0][0] is not None  # CK_C_INITIALIZE_ARGS


def test_python_pkcs11_still_asks_our_override(softhsm_library: Library) -> None:
    """The class that we derive from is not public, so a change must be noticed."""
    with softhsm_library.lock.exclusive():
        softhsm_library.initialize()

    assert isinstance(softhsm_library.module, lib)
    assert not softhsm_library.module.initialized
    assert softhsm_library.module.manufacturer_id == "SoftHSM"


def test_softhsm_locks_by_itself(
    softhsm: PKCS11Backend, softhsm_key: KeyId, softhsm_library: Library
) -> None:
    """SoftHSM takes the system's mutexes, so that threads sign at the same time."""
    sign(softhsm, softhsm_key)

    assert Locking.MODULE is softhsm_library.locking


def test_a_module_that_cannot_lock_gets_one_call_at_a_time(
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
    softhsm_library: Library,
    cryptoki: Cryptoki,
) -> None:
    """CKR_CANT_LOCK leads to C_Initialize(NULL), and a lock around every call."""
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
        cryptoki.hooked("C_Initialize", cannot_lock) as calls,
        cryptoki.hooked("C_Sign", alone),
    ):
        _in_threads(lambda: sign(softhsm, softhsm_key), threads=8, times=5)

    assert [arguments[0] is None for arguments in calls] == [False, True]
    assert Locking.SERIALIZED is softhsm_library.locking
    assert len(overlaps) >= 40
    assert not any(overlaps)


def test_signs_in_a_module_that_somebody_else_initialised(
    softhsm_program: Program,
) -> None:
    """Another library keeps its sessions, and our calls come one at a time."""
    finished = softhsm_program("behind-another", "1")

    assert finished.stderr == ""
    assert finished.stdout == "foreign\n"
    assert finished.returncode == 0


def test_a_new_epoch_ends_all_handles(
    softhsm: PKCS11Backend, softhsm_key: KeyId, softhsm_library: Library
) -> None:
    """After another user of the module reset it, the backend connects again."""
    before = sign(softhsm, softhsm_key), softhsm_library.epoch
    with softhsm_library.lock.exclusive():
        softhsm_library.reset()

    assert before[1] is not softhsm_library.epoch
    assert before[0] == sign(softhsm, softhsm_key)


def test_one_library_per_module_and_process(softhsm_library: Library) -> None:
    """Cryptoki's state is the process's, so everybody gets the same one."""
    path = softhsm_library.path

    assert softhsm_library is Library.of(path)
    assert (os.getpid(), path) in Library._all


def test_a_module_that_is_down_has_no_slots() -> None:
    """Asking before the initialisation is a fault of the moment, not a crash."""
    with pytest.raises(BackendUnavailableError):
        _ = Library("/nowhere.so").module


@pytest.mark.parametrize("content", [None, b"", b"not a library"])
def test_what_is_no_module_does_not_load(tmp_path: Path, content: bytes | None) -> None:
    """A missing or broken file is named by its setting, and not by its path."""
    path = tmp_path / "module.so"
    if content is not None:
        path.write_bytes(content)
    backend = PKCS11Backend(path, "token", lambda: "1234")

    with pytest.raises(BackendError) as caught:
        backend.public_key(KeyId("01"))

    assert str(caught.value) == "the PKCS#11 module does not load"


def test_a_library_without_the_entry_point_is_no_module() -> None:
    """A shared library that lacks C_GetFunctionList is refused in the same words."""
    backend = PKCS11Backend(Path(_any_shared_library()), "token", lambda: "1234")

    with pytest.raises(BackendError, match="does not load"):
        backend.public_key(KeyId("01"))


def test_fails_when_initialising_fails(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """Opening has three attempts, and then it is over until the next call."""
    with (
        cryptoki.failing("C_Initialize", CKR_CANT_LOCK) as calls,
        pytest.raises(BackendUnavailableError),
    ):
        _anew(softhsm).public_key(softhsm_key)

    assert len(calls) == 6  # Each attempt with locks, and then without.
    assert sign(softhsm, softhsm_key)


def _in_threads(work: Callable[[], object], *, threads: int, times: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads * times)]:
            done.result()


def _anew(backend: PKCS11Backend) -> PKCS11Backend:
    return PKCS11Backend(Path(backend._path), backend._token_label, backend._pin)


def _any_shared_library() -> str:
    return pkcs11._pkcs11.__file__
