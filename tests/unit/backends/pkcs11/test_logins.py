"""When a process logs in to a token again, and what a device need not show."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from backends.pkcs11.cryptoki import Library
from backends.pkcs11.failed_logins import FailedLogins
from backends.pkcs11.session import LoginFailedError, TokenSession
from signer.errors import BackendUnavailableError, KeyUnusableError
from tests.fixtures.cryptoki_faults import CKR_DEVICE_ERROR, Cryptoki, Hook
from tests.fixtures.hostile import KEY, LABEL, Hostile, MakeHostile
from tests.fixtures.softhsm_programs import sign


pytestmark = pytest.mark.needs("cc")

DIGEST = b"\x01" * 32
EC_PARAMS, ALWAYS_AUTHENTICATE = 0x180, 0x202
UNAVAILABLE = ctypes.c_ulong(-1).value


class _Attribute(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_ulong),
        ("value", ctypes.c_void_p),
        ("size", ctypes.c_ulong),
    )


def _functions(hostile: Hostile) -> Cryptoki:
    """Return the module's table, which it writes anew each time it is loaded."""
    Library.of(hostile.backend._session._path)._load()
    return Cryptoki(str(hostile.module))


@contextmanager
def _showing(
    module: Cryptoki, kind: int, show: Callable[[_Attribute], None]
) -> Iterator[None]:
    """Let the device answer otherwise when it is asked for the attribute *kind*."""

    def answer(original: Hook, *arguments: int) -> int:
        rv = original(*arguments)
        for place in range(arguments[3]):
            size = ctypes.sizeof(_Attribute)
            each = _Attribute.from_address(arguments[2] + place * size)
            if each.type == kind:
                show(each)
                rv = 0
        return rv

    with module.hooked("C_GetAttributeValue", answer):
        yield


@pytest.mark.parametrize("rv", [0x5, 0x6, 0x7, 0x20, 0x30, 0x101, 0x200, 0x80000001])
def test_a_login_that_fails_without_a_reason_is_not_repeated_soon(
    make_hostile: MakeHostile, rv: int
) -> None:
    """A device that answers a wrong PIN so would be locked after a few."""
    hostile, now = make_hostile(f"C_Login={rv:x}"), [1000.0]
    session = TokenSession(
        hostile.backend._session._path, LABEL, lambda: "1234", timer=lambda: now[0]
    )
    pauses = []
    with _functions(hostile).watched("C_Login") as logins:
        for _ in range(4):
            seen = len(logins)
            with pytest.raises(LoginFailedError):
                session.call(lambda _: None, 9.0)
            assert len(logins) == seen + 1
            began = now[0]
            while len(logins) == seen + 1:
                now[0] += 0.5
                with pytest.raises(BackendUnavailableError):
                    session.call(lambda _: None, 9.0)
            pauses.append(now[0] - began)
            now[0] += 1000
        hostile.behave("")
        now[0] += 1000

        assert session.call(lambda _: "served", 9.0) == "served"
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * pauses[0]


def test_a_worker_that_is_killed_at_its_login_delays_the_next_one(
    make_hostile: MakeHostile,
) -> None:
    """What the token answered is in no record: it may have refused the PIN."""
    hostile, now, failed = make_hostile(), [1000.0], FailedLogins()
    path = hostile.backend._session._path
    session = TokenSession(path, LABEL, lambda: "1234", failed, timer=lambda: now[0])
    worker = os.fork()
    if worker == 0:
        with failed.trying("1234", path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(worker, 0)

    with _functions(hostile).watched("C_Login") as logins:
        for _ in range(2):
            with pytest.raises(LoginFailedError):
                session.call(lambda _: None, 9.0)
        assert not logins
        now[0] += 3

        assert session.call(lambda _: "served", 9.0) == "served"
    assert len(logins) == 1


def test_a_call_that_hangs_does_not_keep_the_others_from_a_new_login(
    make_hostile: MakeHostile,
) -> None:
    """The module cannot be finalized then; it has a new login without that."""
    hostile = make_hostile(seconds=2.0)
    backend, module = hostile.backend, _functions(hostile)
    library = Library.of(backend._session._path)
    library.lock._timeout = 0.2
    assert sign(backend, KEY)
    hangs, ends = threading.Event(), threading.Event()

    def hang_once(original: Hook, *arguments: int) -> int:
        if not hangs.is_set():
            hangs.set()
            ends.wait()
        return original(*arguments)

    def sign_late() -> None:
        with pytest.raises(BackendUnavailableError):
            backend.sign_digest(KEY, DIGEST)

    with module.hooked("C_Sign", hang_once):
        late = threading.Thread(target=sign_late)
        late.start()
        assert hangs.wait(10)
        try:
            with module.failing("C_SignInit", CKR_DEVICE_ERROR, times=1):
                assert sign(backend, KEY)
            assert sign(backend, KEY)
            late.join()
        finally:
            ends.set()
    assert sign(backend, KEY)


def test_a_signature_says_how_often_the_device_was_asked(
    make_hostile: MakeHostile,
) -> None:
    hostile = make_hostile()
    assert hostile.backend.sign_digest(KEY, DIGEST).attempts == 1

    with _functions(hostile).failing("C_Sign", CKR_DEVICE_ERROR, times=1):
        assert hostile.backend.sign_digest(KEY, DIGEST).attempts == 2


def test_an_attribute_may_be_unavailable(make_hostile: MakeHostile) -> None:
    """Some devices say so beside CKR_OK, which the standard does not permit."""
    hostile = make_hostile()

    def hide(attribute: _Attribute) -> None:
        attribute.size = UNAVAILABLE

    module = _functions(hostile)
    with (
        module.watched("C_Login") as logins,
        _showing(module, EC_PARAMS, hide),
    ):
        assert sign(hostile.backend, KEY)

    assert len(logins) == 1


def test_a_key_that_asks_for_the_pin_each_time_is_refused(
    make_hostile: MakeHostile,
) -> None:
    """CKA_ALWAYS_AUTHENTICATE: the service gives the PIN once."""
    hostile = make_hostile()

    def demand(attribute: _Attribute) -> None:
        attribute.size = 1
        if attribute.value:
            ctypes.memset(attribute.value, 1, 1)

    module = _functions(hostile)
    with (
        module.watched("C_Login") as logins,
        _showing(module, ALWAYS_AUTHENTICATE, demand),
    ):
        for _ in range(3):
            with pytest.raises(KeyUnusableError, match="ALWAYS_AUTHENTICATE"):
                hostile.backend.public_key(KEY)

    assert len(logins) == 1
