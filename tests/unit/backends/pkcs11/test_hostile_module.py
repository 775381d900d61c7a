"""Whatever a module does, no wrong signature leaves, and each error says what to do."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from api.views.codes import find_code
from backends.pkcs11 import PKCS11Backend
from backends.pkcs11.cryptoki import Library
from signer.errors import AccessDeniedError, BackendError, HotWalletError
from tests.fixtures.hostile import KEY, LABEL, Hostile, MakeHostile
from tests.fixtures.softhsm import Program
from tests.fixtures.softhsm_programs import sign


pytestmark = pytest.mark.needs("cc")

SIGNS = "signs"
ENCODING, RECOVERY = "signature-encoding", "signature-recovery"
UNAVAILABLE, THROTTLED = "backend-unavailable", "backend-throttled"
FAILED, DENIED = "backend-failed", "backend-access-denied"
UNUSABLE, NOT_FOUND, AMBIGUOUS = "key-unusable", "key-not-found", "key-ambiguous"

SIGNATURES = {
    "high s": SIGNS,
    "low s": SIGNS,
    "other digest": RECOVERY,
    "other key": RECOVERY,
    "truncated digest": RECOVERY,
    "swapped": RECOVERY,
    "flipped bit": RECOVERY,
    "garbage": RECOVERY,
    "little-endian": RECOVERY,
    "zeros": ENCODING,
    "ones": ENCODING,
    "zero r": ENCODING,
    "zero s": ENCODING,
    "r is the order": ENCODING,
    "s is the order": ENCODING,
    "der trailing": ENCODING,
    "der long length": ENCODING,
    "der cut": ENCODING,
    "nothing": ENCODING,
    "63 bytes": ENCODING,
    "65 bytes": ENCODING,
    "96 bytes": ENCODING,
    "a size of 2**40": ENCODING,
    "a size of -1": ENCODING,
    "C_SignInit=70": UNUSABLE,  # CKR_MECHANISM_INVALID
    "C_SignInit=63": UNUSABLE,  # CKR_KEY_TYPE_INCONSISTENT
    "C_SignInit=101": UNAVAILABLE,  # CKR_USER_NOT_LOGGED_IN
    "C_SignInit=90": UNAVAILABLE,  # CKR_OPERATION_ACTIVE
    "C_SignInit=82": UNAVAILABLE,  # CKR_OBJECT_HANDLE_INVALID
    "C_Sign=5": UNAVAILABLE,  # CKR_GENERAL_ERROR
    "C_Sign=21": FAILED,  # CKR_DATA_LEN_RANGE
    "C_Sign=30": UNAVAILABLE,  # CKR_DEVICE_ERROR
    "C_Sign=32": UNAVAILABLE,  # CKR_DEVICE_REMOVED
    "C_Sign=50": UNAVAILABLE,  # CKR_FUNCTION_CANCELED
    "C_Sign=b1": THROTTLED,  # CKR_SESSION_COUNT
    "C_Sign=190": UNAVAILABLE,  # CKR_CRYPTOKI_NOT_INITIALIZED
    "C_Sign=200": FAILED,  # CKR_FUNCTION_REJECTED
    "C_Sign=777": UNAVAILABLE,  # No such code.
    "C_Sign=80000123": UNAVAILABLE,  # A vendor's.
}
"""What a signature does, the first one and a later one."""

OPENING = {
    "der": SIGNS,
    "a bare point": SIGNS,
    "a curve by name": SIGNS,
    "no curve": SIGNS,
    "no locks": SIGNS,
    "no login": SIGNS,
    "no read-only sessions": SIGNS,
    "two sessions": SIGNS,
    "unknown sessions": SIGNS,
    "text that is not UTF-8": SIGNS,
    "the rest is left out": SIGNS,
    "fails at first": SIGNS,
    "C_Login=100": SIGNS,  # CKR_USER_ALREADY_LOGGED_IN
    "C_Initialize=191": UNAVAILABLE,  # CKR_CRYPTOKI_ALREADY_INITIALIZED, untrue
    "C_Initialize=5": UNAVAILABLE,
    "C_GetInfo=5": UNAVAILABLE,
    "C_GetSlotList=30": UNAVAILABLE,
    "C_GetTokenInfo=e0": UNAVAILABLE,  # CKR_TOKEN_NOT_PRESENT
    "no slot": UNAVAILABLE,
    "another label": UNAVAILABLE,
    "two tokens": FAILED,
    "C_OpenSession=30": UNAVAILABLE,
    "C_OpenSession=b1": THROTTLED,
    "C_Login=a0": DENIED,  # CKR_PIN_INCORRECT
    "C_Login=a4": DENIED,  # CKR_PIN_LOCKED
    "C_Login=102": DENIED,  # CKR_USER_PIN_NOT_INITIALIZED
    "C_Login=80000001": UNAVAILABLE,
    "C_FindObjectsInit=30": UNAVAILABLE,
    "C_FindObjects=b3": UNAVAILABLE,  # CKR_SESSION_HANDLE_INVALID
    "C_FindObjectsFinal=5": UNAVAILABLE,
    "C_GetAttributeValue=30": UNAVAILABLE,
    "no object": NOT_FOUND,
    "two objects": AMBIGUOUS,
    "many objects": UNAVAILABLE,
    "endless objects": FAILED,
    "many slots": SIGNS,
    "a value of 2**40": UNAVAILABLE,
    "an RSA key": UNUSABLE,
    "a public private key": UNUSABLE,
    "not sensitive": UNUSABLE,
    "extractable": UNUSABLE,
    "may not sign": UNUSABLE,
    "another curve": UNUSABLE,
    "an empty curve": UNUSABLE,
    "a compressed point": ENCODING,
    "a point off the curve": ENCODING,
    "no point": ENCODING,
    "a long point": ENCODING,
}
"""What the first call does."""

HANGS = ("C_Initialize", "C_GetInfo", "C_OpenSession", "C_Login", "C_FindObjects")
HANGS_LATER = ("C_SignInit", "C_Sign")
NO_MODULE = ("version 9", "no list", "no C_Sign", "C_GetFunctionList=5")


@pytest.mark.parametrize(("behaviour", "expected"), SIGNATURES.items(), ids=SIGNATURES)
def test_only_right_signatures_leave(
    make_hostile: MakeHostile, behaviour: str, expected: str
) -> None:
    """P17: the first signature and a later one end alike, and the next one signs."""
    for later in (False, True):
        hostile = make_hostile()
        if later:
            sign(hostile.backend, KEY)
        hostile.behave(behaviour)

        assert _outcome(hostile) == expected
        hostile.behave("")
        assert _outcome(hostile) == SIGNS


@pytest.mark.parametrize(("behaviour", "expected"), OPENING.items(), ids=OPENING)
def test_tokens_and_keys_are_read_strictly(
    make_hostile: MakeHostile, behaviour: str, expected: str
) -> None:
    """What may differ between devices is accepted, and nothing else."""
    assert _outcome(make_hostile(behaviour)) == expected


@pytest.mark.parametrize(
    ("behaviour", "name"),
    [
        ("C_Sign=30", "CKR_DEVICE_ERROR"),
        ("C_Sign=50", "CKR_FUNCTION_CANCELED"),
        ("C_Sign=150", "CKR_BUFFER_TOO_SMALL"),
        ("C_Sign=190", "CKR_CRYPTOKI_NOT_INITIALIZED"),
        ("C_Sign=777", "CKR 0x777"),
        ("C_Sign=80000123", "CKR_VENDOR_DEFINED+0x123"),
        ("C_Login=103", "CKR_USER_TYPE_INVALID"),
        ("C_OpenSession=b4", "CKR_SESSION_PARALLEL_NOT_SUPPORTED"),
        ("C_Initialize=5", "CKR_GENERAL_ERROR"),
    ],
)
def test_errors_have_the_names_of_return_codes(
    make_hostile: MakeHostile, behaviour: str, name: str
) -> None:
    """An operator finds the name in the documents of the device."""
    function = behaviour.partition("=")[0]

    with pytest.raises(BackendError) as caught:
        sign(make_hostile(behaviour).backend, KEY)

    assert str(caught.value).endswith(f"({function}: {name})")


@pytest.mark.parametrize("behaviour", ["one try left", "a locked PIN"])
def test_the_last_try_of_a_pin_is_left(
    make_hostile: MakeHostile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: str,
) -> None:
    """P8: once the device's own tool has reset the count, the backend signs."""
    logins = tmp_path / "logins"
    monkeypatch.setenv("HOSTILE_LOGINS", str(logins))
    hostile = make_hostile(behaviour)

    with pytest.raises(AccessDeniedError, match="with the device's own tool"):
        sign(hostile.backend, KEY)
    assert not logins.exists()
    hostile.behave("")
    assert sign(hostile.backend, KEY)
    assert logins.read_text() == "right\n"


@pytest.mark.parametrize("behaviour", NO_MODULE)
def test_what_is_no_module_is_refused(
    make_hostile: MakeHostile, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    """The list of functions is checked before the first call."""
    monkeypatch.setenv("HOSTILE", behaviour)

    assert _outcome(make_hostile(behaviour)) == FAILED


@pytest.mark.parametrize("function", [*HANGS, *HANGS_LATER])
def test_a_call_that_hangs_ends_at_its_deadline(
    make_hostile: MakeHostile, function: str
) -> None:
    """P16: the caller gets an error; after the module answers, it signs again."""
    hostile = make_hostile(seconds=1.0 if function in HANGS_LATER else 0.2)
    if function in HANGS_LATER:
        sign(PKCS11Backend(hostile.module, LABEL, lambda: "1234"), KEY)
    hostile.behave(f"{function}~")

    assert _outcome(hostile) == UNAVAILABLE
    hostile.behave("")
    assert sign(PKCS11Backend(hostile.module, LABEL, lambda: "1234"), KEY)


def test_the_encoding_of_signatures_does_not_change(make_hostile: MakeHostile) -> None:
    """The first signature that verifies decides it; it is not guessed again."""
    raw, der = make_hostile(), make_hostile("der")

    for hostile, other in ((raw, "der"), (der, "")):
        sign(hostile.backend, KEY)
        hostile.behave(other)
        assert _outcome(hostile) == ENCODING


def test_a_token_with_two_sessions_serves_all_threads(
    make_hostile: MakeHostile,
) -> None:
    """Threads wait for a session instead of failing."""
    hostile = make_hostile("two sessions")

    with ThreadPoolExecutor(8) as pool:
        addresses = set(pool.map(lambda _: sign(hostile.backend, KEY), range(40)))

    assert len(addresses) == 1
    assert hostile.backend.concurrency == 1


def test_another_key_after_a_reconnection_is_refused(
    make_hostile: MakeHostile,
) -> None:
    """The public key is pinned when it is first read."""
    hostile = make_hostile()
    sign(hostile.backend, KEY)
    library = Library.of(os.path.realpath(hostile.module))
    hostile.behave("another point later")
    with library.lock.exclusive():
        library.reset()

    assert _outcome(hostile) == UNUSABLE


def test_a_module_that_forks_signs_once(
    make_hostile: MakeHostile,
) -> None:
    """The child of a fork inside of a call ends, and returns nothing."""
    finished = _run("sign-once", make_hostile().module, "C_Sign!")

    assert len(finished.stdout.split()) == 1
    assert finished.returncode == 0


def test_no_module_decides_the_size_of_a_buffer(make_hostile: MakeHostile) -> None:
    """python-pkcs11 would allocate what C_Sign demands, and crash."""
    finished = _run("sign-once", make_hostile().module, "a demand for 2**40 bytes")

    assert finished.stdout.startswith("0x")
    assert finished.returncode == 0


def test_fifty_exits_do_not_crash(make_hostile: MakeHostile) -> None:
    """A module that crashes in C_Finalize after threads have ended (openCryptoki)."""
    finished = _run("exit-often", make_hostile().module, "50")

    assert finished.stdout == f"{[0] * 50}\n"
    assert finished.stderr == ""


def test_exits_with_softhsm_do_not_crash(softhsm_program: Program) -> None:
    """P13: it must be finalized before its destructors run."""
    finished = softhsm_program(
        "exit-often", "softhsm", "10", module="tests.fixtures.hostile_programs"
    )

    assert finished.stdout == f"{[0] * 10}\n"
    assert finished.stderr == ""


def _run(name: str, module: Path, argument: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in a group of its own, and kill what it leaves."""
    program = (sys.executable, "-m", "tests.fixtures.hostile_programs", name)
    with subprocess.Popen(
        [*program, module, argument],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:  # A child that stays keeps stdout open.
            stdout, stderr = process.communicate(timeout=120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(program, process.returncode, stdout, stderr)


def _outcome(hostile: Hostile) -> str:
    try:
        sign(hostile.backend, KEY)
    except HotWalletError as e:
        found = find_code(e.code)
        assert found is not None
        assert found["cure"]
        return e.code
    return SIGNS
