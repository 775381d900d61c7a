"""
``hotwallet softhsm`` from the outside.

Most commands run in this process, which can have one SoftHSM configuration at a
time: the module is taken down before and after each.  Those that are killed, run
at once or read standard input are processes.
"""

import ctypes
import json
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import bitcurve
import pytest
from click.testing import CliRunner, Result

from backends.pkcs11.cryptoki import Library
from signer.crypto.secp256k1 import N, PublicKey
from signer.private_files import write_whole
from softhsm.cli import softhsm
from softhsm.layout import CONF_VARIABLE, Layout
from tests.fixtures.cryptoki_faults import CKR_CANT_LOCK, Cryptoki, Hook
from tests.fixtures.softhsm_programs import PROGRAMS


Run = Callable[..., Result]
Program = Callable[..., None]

COMMAND = [sys.executable, "-c", "from softhsm.cli import softhsm; softhsm()"]
SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = PublicKey(
    bitcurve.PrivateKey(bytes.fromhex(SECRET)).public_key.format(compressed=False)
).address


def _environ(module: Path, home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {
        **kept,
        "APP_ENV": "development",
        "HOTWALLET_HOME": str(home),
        "PKCS11_MODULE": str(module),
    }


@pytest.fixture
def environ(softhsm_module: Path, tmp_path: Path) -> dict[str, str]:
    return _environ(softhsm_module, tmp_path / "home")


@pytest.fixture
def layout(environ: dict[str, str]) -> Layout:
    return Layout.of(Path(environ["HOTWALLET_HOME"]))


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    """Run one command, as if in a process of its own."""

    def run(*arguments: str, **more: str) -> Result:
        with _in_environment({**environ, **more}):
            return CliRunner().invoke(softhsm, arguments)

    return run


@pytest.fixture
def program(environ: dict[str, str]) -> Program:
    """Run one of ``tests.fixtures.softhsm_programs`` in the same environment."""

    def run(name: str, *arguments: str) -> None:
        with _in_environment(environ):
            PROGRAMS[name](*arguments)

    return run


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    write_whole(tmp_path / "key", SECRET.encode())
    return str(tmp_path / "key")


def test_init_is_idempotent(run: Run, layout: Layout) -> None:
    """The first run creates token and key, later runs find them; PINs are not shown."""
    first, second = _json(run("init", "--json")), _json(run("init", "--json"))
    finished = run("init").stdout

    assert first == second
    assert first["key_id"] == "01"
    assert first["address"] in finished
    assert f"export PKCS11_PIN_FILE={layout.pin}" in finished
    for pin in (layout.pin, layout.so_pin):
        assert pin.read_text().strip() not in finished
    assert not layout.staging.exists()


def test_init_prints_the_variables_of_the_wallet(
    run: Run, environ: dict[str, str], tmp_path: Path
) -> None:
    """With the variables that ``init`` prints, another home signs with the same key."""
    wallet = _json(run("init", "--json"))
    elsewhere = {**wallet["environment"], "HOTWALLET_HOME": str(tmp_path / "other")}

    results = _json(run("doctor", "--json", **elsewhere))

    assert {
        "name": "signs",
        "state": "ok",
        "detail": wallet["address"],
        "cure": "",
        "code": None,
    } in results


def test_init_creates_another_key_on_request(run: Run) -> None:
    first = _json(run("init", "--json"))
    clash = run("init", PKCS11_KEY_ID="02")
    second = _json(run("init", "--json", "--label", "two", PKCS11_KEY_ID="02"))

    _assert_refused(clash, "a key with this label already exists")
    assert first["address"] != second["address"]
    assert [key["key_id"] for key in _json(run("list", "--json"))] == ["01", "02"]


def test_concurrent_inits_create_one_token(environ: dict[str, str]) -> None:
    started = [
        subprocess.Popen(
            [*COMMAND, "init", "--json"], env=environ, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]

    addresses = {json.loads(each.communicate()[0])["address"] for each in started}

    assert len(addresses) == 1


@pytest.fixture(scope="module")
def seconds(softhsm_module: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    home = tmp_path_factory.mktemp("rehearsal") / "home"
    environ = _environ(softhsm_module, home)
    started = time.monotonic()
    subprocess.run([*COMMAND, "init"], env=environ, capture_output=True, check=True)
    return time.monotonic() - started


@pytest.mark.parametrize("share", [0.4, 0.6, 0.75, 0.9])
def test_init_may_be_killed_at_any_time(
    run: Run, environ: dict[str, str], seconds: float, share: float
) -> None:
    """After SIGKILL another run completes the token, and the key signs."""
    process = subprocess.Popen([*COMMAND, "init"], env=environ, stdout=subprocess.PIPE)
    time.sleep(seconds * share)
    process.kill()
    process.communicate()

    wallet = _json(run("init", "--json"))

    assert _json(run("list", "--json"))[0]["address"] == wallet["address"]
    assert run("doctor").exit_code == 0


def _kill_before_the_key_has_an_id(layout: Layout, environ: dict[str, str]) -> None:
    """Start ``init``, and kill it while SoftHSM writes the private key's first part."""
    process = subprocess.Popen([*COMMAND, "init"], env=environ, stdout=subprocess.PIPE)
    public, left, pause = "", 0, 0.001
    while process.poll() is None and not left:
        time.sleep(pause)  # The process runs only meanwhile.
        objects = {
            each.name: each.stat().st_size
            for each in layout.tokens.glob("*/*.object")
            if each.name != "token.object"
        }
        if len(objects) == 1:
            (public,) = objects
        if public:
            left = sum(objects[name] for name in objects if name != public)
        if layout.tokens.exists():
            pause = 0.00002
    process.kill()
    process.communicate()


@pytest.fixture
def one_processor() -> Iterator[None]:
    """Keep this process, and those that it starts, on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.soak  # It tries until it hits; the next test makes the same state.
@pytest.mark.usefixtures("one_processor")
def test_init_killed_before_the_key_has_an_id(
    run: Run, layout: Layout, environ: dict[str, str]
) -> None:
    """SoftHSM gives a private key its id last: the object would stay for ever."""
    ids = ["01"]
    while ids != [""]:
        shutil.rmtree(environ["HOTWALLET_HOME"], ignore_errors=True)
        _kill_before_the_key_has_an_id(layout, environ)
        ids = [key["key_id"] for key in _json(run("list", "--json"))]

    wallet = _json(run("init", "--json"))

    (key,) = _json(run("list", "--json"))
    assert key["address"] == wallet["address"]
    assert run("doctor").exit_code == 0


def test_init_replaces_an_incomplete_key(run: Run, program: Program) -> None:
    """An incomplete key object, which a killed SoftHSM leaves, is replaced."""
    run("init")
    program("destroy", "PRIVATE_KEY")
    program("stillborn")

    assert run("doctor").exit_code == 1
    assert _json(run("init", "--json"))["address"]
    assert run("doctor").exit_code == 0


def test_init_never_replaces_a_private_key(run: Run, program: Program) -> None:
    """A private key without its public half may own funds."""
    run("init")
    program("destroy", "PUBLIC_KEY")

    refused = run("init")

    _assert_refused(refused, "the key is imported in part: import it again")
    assert [key["key_id"] for key in _json(run("list", "--json"))] == ["01"]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SOFTHSM2_CONF", "/etc/softhsm2.conf", "softhsm-elsewhere"),
        ("PKCS11_MODULE", "/nowhere.so", "the PKCS#11 module does not load"),
        (
            "PKCS11_TOKEN_LABEL",
            "\N{COFFIN}" * 11,
            "a new one needs a label of at most 32 bytes",
        ),
    ],
)
def test_init_refuses_unusable_settings(
    run: Run, variable: str, value: str, message: str
) -> None:
    """Another token, a missing module, or a label longer than 32 bytes in UTF-8."""
    _assert_refused(run("init", **{variable: value}), message)


def test_init_never_erases_another_vendors_token(
    run: Run, softhsm_module: Path, tmp_path: Path
) -> None:
    module = tmp_path / "vendor.so"
    shutil.copy(softhsm_module, module)

    def rename(original: Hook, info: int, *rest: object) -> int:
        rv = original(info, *rest)
        ctypes.memmove(info + 2, b"Vendor".ljust(32), 32)  # manufacturerID
        return rv

    with Cryptoki(str(module)).hooked("C_GetInfo", rename):
        refused = run("init", PKCS11_MODULE=str(module))

    _assert_refused(refused, "softhsm-other-module")


def test_a_killed_login_loses_no_token(run: Run, layout: Layout) -> None:
    """SoftHSM truncates a token's file at each login; the copy restores it."""
    wallet = _json(run("init", "--json"))
    (token,) = layout.tokens.iterdir()
    (token / "token.object").write_bytes(b"")

    assert _json(run("init", "--json")) == wallet


@pytest.mark.parametrize("prefix", ["", "0x"])
def test_imports_a_key_from_standard_input(
    run: Run, environ: dict[str, str], prefix: str
) -> None:
    """It goes into a new token and is not extractable."""
    imported = subprocess.run(
        [*COMMAND, "import"],
        env=environ,
        input=f" {prefix}{SECRET}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    (key,) = _json(run("list", "--json"))

    assert f"The token signs for {ADDRESS} with key 01." in imported.stdout
    assert "unset MERCHANT_WALLET_PRIVATE_KEY" in imported.stdout
    assert SECRET not in imported.stdout + imported.stderr
    assert (key["address"], key["label"]) == (ADDRESS, "imported")
    assert key["attributes"] == {
        "sign": True,
        "token": True,
        "private": True,
        "sensitive": True,
        "extractable": False,
        "derive": False,
        "modifiable": False,
        "copyable": False,
        # The token cannot know what happened to it before.
        "always_sensitive": False,
        "never_extractable": False,
    }


def test_import_does_not_echo_a_typed_key(environ: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "import", "--json"],
        env=environ,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    )
    as_json = os.read(ours, 1000)  # The prompt follows once echo is off.
    os.write(ours, f"{SECRET}\n".encode())
    answer = json.loads(process.communicate()[0])
    os.close(theirs)
    with suppress(OSError):  # EIO, if the other end is closed.
        as_json += os.read(ours, 1000)
    os.close(ours)

    assert answer["address"] == ADDRESS
    assert b"Private key" in as_json
    assert SECRET.encode() not in as_json


def test_an_imported_key_is_what_init_finds(run: Run, key_file: str) -> None:
    """Nor does another import; ``doctor`` reports it."""
    first = run("import", "--json", "--file", key_file)

    assert run("import", "--json", "--file", key_file).stdout == first.stdout
    assert _json(run("init", "--json"))["address"] == ADDRESS
    assert "it was imported, so copies may exist" in run("doctor").stdout


def test_import_reads_a_file_of_its_owner_only(run: Run, key_file: str) -> None:
    """A key file that other users may read is refused before it is read."""
    Path(key_file).chmod(0o640)

    refused = run("import", "--file", key_file)

    _assert_refused(refused, "other users may read the key file: chmod 600 it")


@pytest.mark.parametrize("half", ["PRIVATE_KEY", "PUBLIC_KEY"])
def test_import_completes_an_interrupted_one(
    run: Run, program: Program, key_file: str, half: str
) -> None:
    """Repeating an import creates the missing half of the pair."""
    run("import", "--file", key_file)
    program("destroy", half)

    assert run("doctor").exit_code == 1
    assert _json(run("import", "--json", "--file", key_file))["address"] == ADDRESS
    assert run("doctor").exit_code == 0


@pytest.mark.parametrize(
    "programs",
    [
        [],
        [("destroy", "PUBLIC_KEY")],
        [("destroy", "PRIVATE_KEY")],
        [("destroy", "PRIVATE_KEY"), ("mute",)],
    ],
    ids=["both halves", "private half", "public half", "one that cannot sign"],
)
def test_import_replaces_no_other_key(
    run: Run, program: Program, key_file: str, programs: list[tuple[str, ...]]
) -> None:
    """An import is refused if either half of another key has the id."""
    run("init")
    for each in programs:
        program(*each)

    refused = run("import", "--file", key_file)

    _assert_refused(refused, "another key has this id")


def test_list_shows_unusable_keys(run: Run, program: Program) -> None:
    run("init")
    program("destroy", "PUBLIC_KEY")

    finished = run("list").stdout

    assert finished.splitlines()[0] == "01  hotwallet  no secp256k1 pair"
    assert "never_extractable" in finished


def test_hints_before_init(run: Run) -> None:
    """Without a token, ``list`` points to ``doctor``, and ``doctor`` to ``init``."""
    (failed,) = _failed(run("doctor", "--json"))

    assert str(run("list").exception).endswith("; run: hotwallet softhsm doctor")
    assert failed["cure"].endswith("run: hotwallet softhsm init")


def test_import_refuses_a_label_in_use(run: Run, key_file: str) -> None:
    """P10"""
    run("init")

    refused = run(
        *("import", "--label", "hotwallet", "--file", key_file), PKCS11_KEY_ID="02"
    )

    _assert_refused(refused, "another key has this label")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        SECRET[:-1],
        SECRET[:-2],
        SECRET + "00",
        SECRET[:-1] + "g",
        "0x0x" + SECRET[:-2],
        "00" * 32,
        f"{N:064x}",
        "ff" * 32,
        SECRET * 20,
    ],
)
def test_import_refuses_malformed_keys(run: Run, key_file: str, text: str) -> None:
    """Only 32 bytes in hex from 1 to n-1 are accepted, and never quoted."""
    Path(key_file).write_text(text)

    refused = run("import", "--file", key_file)

    _assert_refused(
        refused, "a private key is 64 hex digits, and less than the order of secp256k1"
    )
    assert not text.strip() or text.strip() not in repr(refused.exception)


def test_import_accepts_the_greatest_key(run: Run, key_file: str) -> None:
    Path(key_file).write_text(f"{N - 1:064x}")

    assert _json(run("import", "--json", "--file", key_file))["address"]


def test_import_takes_no_key_from_argv(run: Run) -> None:
    """Other users can read argv."""
    refused = run("import", SECRET)

    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("variables", "check", "detail"),
    [
        ({}, None, ""),
        (
            {"PKCS11_MODULE": "/nowhere/module.so"},
            "loads",
            "/nowhere/module.so: cannot open",
        ),
        ({"PKCS11_TOKEN_LABEL": "elsewhere"}, "token", "the module has 'hotwallet'"),
        (
            {"PKCS11_TOKEN_LABEL": "pkcs11:label=x"},
            "loads",
            "URI may have each of token",
        ),
        ({"PKCS11_PIN_FILE": "/nowhere/pin"}, "pin", ""),
        ({"PKCS11_PIN": "not the PIN"}, "login", "(C_Login: CKR_PIN_INCORRECT)"),
        ({"PKCS11_KEY_ID": "02"}, "key", ""),
    ],
)
def test_doctor_names_the_failed_check(
    run: Run, variables: dict[str, str], check: str | None, detail: str
) -> None:
    """With what is needed to mend it; the checks after it are skipped."""
    run("init")

    finished = run("doctor", "--json", **variables)

    failed = _failed(finished)
    states = [each["state"] for each in _json(finished)]
    assert [each["name"] for each in failed] == ([check] if check else [])
    assert finished.exit_code == (1 if check else 0)
    if check is not None:
        first = states.index("failed")
        assert set(states[:first]) <= {"ok"}
        assert set(states[first + 1 :]) <= {"skipped"}
        assert detail in failed[0]["detail"]
        assert failed[0]["cure"]


def test_doctor_finds_two_tokens_of_one_name(
    run: Run, layout: Layout, tmp_path: Path
) -> None:
    """P10"""
    run("init")
    run("init", HOTWALLET_HOME=str(tmp_path / "other"))
    (token,) = Layout.of(tmp_path / "other").tokens.iterdir()
    token.rename(layout.tokens / token.name)

    (failed,) = _failed(run("doctor", "--json"))

    assert failed["detail"].endswith(": several tokens have the configured label")


def test_doctor_reports_a_module_that_cannot_lock(
    run: Run, softhsm_module: Path
) -> None:
    run("init")

    def cannot_lock(original: Hook, args: int | None, *rest: object) -> int:
        return CKR_CANT_LOCK if args is not None else original(args, *rest)

    with Cryptoki(str(softhsm_module)).hooked("C_Initialize", cannot_lock):
        finished = run("doctor")

    assert finished.exit_code == 0
    assert "threads sign one after the other" in finished.stdout


def test_doctor_finds_two_halves_of_different_keys(run: Run, program: Program) -> None:
    """The last check finds a signature that does not recover to the public key."""
    run("init")
    program("destroy", "PUBLIC_KEY")
    program("other-half")

    failed = _failed(run("doctor", "--json"))

    assert [check["name"] for check in failed] == ["signs"]


@contextmanager
def _in_environment(environ: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONF_VARIABLE, "")  # Restored afterwards.
        patch.delenv(CONF_VARIABLE)
        for name in [name for name in os.environ if name.startswith("PKCS11_")]:
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        _finalize_module()
        yield
        _finalize_module()


def _finalize_module() -> None:
    for library in list(Library._all.values()):
        with library.lock.exclusive():
            library.finalize()


def _json(result: Result) -> Any:
    assert result.stdout, result.exception
    return json.loads(result.stdout)


def _failed(result: Result) -> list[dict[str, str]]:
    return [check for check in _json(result) if check["state"] == "failed"]


def _assert_refused(result: Result, words: str) -> None:
    assert result.exit_code == 1
    assert words in str(result.exception)
    assert SECRET not in f"{result.output} {result.exception!r}"
