"""``hotwallet softhsm`` from the outside, each command a process as users start it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coincurve
import pytest

from signer.secp256k1 import N, PublicKey
from softhsm import Layout
from softhsm.layout import replace_private


Finished = subprocess.CompletedProcess[str]
Command = Callable[..., Finished]

COMMAND = [sys.executable, "-c", "from softhsm.cli import softhsm; softhsm()"]
SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = PublicKey(
    coincurve.PrivateKey(bytes.fromhex(SECRET)).public_key.format(compressed=False)
).address


@pytest.fixture
def environ(softhsm_module: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a project that has no token yet."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {
        **kept,
        "APP_ENV": "development",
        "HOTWALLET_HOME": str(tmp_path / "home"),
        "PKCS11_MODULE": str(softhsm_module),
    }


@pytest.fixture
def run(environ: dict[str, str]) -> Command:
    """Run one command in that environment."""

    def run(*arguments: str, stdin: str = "", **more: str) -> Finished:
        return subprocess.run(
            [*COMMAND, *arguments],
            env={**environ, **more},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def layout(environ: dict[str, str]) -> Layout:
    """The files that the commands make."""
    return Layout.of(Path(environ["HOTWALLET_HOME"]))


def test_init_makes_a_wallet_and_keeps_it(run: Command, layout: Layout) -> None:
    """The first run makes token and key, later ones find them; PINs are not told."""
    first, second = _json(run("init", "--json")), _json(run("init", "--json"))
    told = run("init").stdout

    assert first == second
    assert first["key_id"] == "01"
    assert first["address"] in told
    assert f"export PKCS11_PIN_FILE={layout.pin}" in told
    for pin in (layout.pin, layout.so_pin):
        assert pin.read_text().strip() not in told
    assert not layout.staging.exists()


def test_init_tells_variables_that_lead_any_process_there(
    run: Command, environ: dict[str, str], tmp_path: Path
) -> None:
    """With what ``init`` prints, another home signs with the same key."""
    wallet = _json(run("init", "--json"))
    elsewhere = {**wallet["environment"], "HOTWALLET_HOME": str(tmp_path / "other")}

    rungs = _json(run("doctor", "--json", **elsewhere))

    assert {
        "name": "signs",
        "state": "ok",
        "detail": wallet["address"],
        "cure": "",
    } in (rungs)


def test_init_makes_another_key_on_request(run: Command) -> None:
    """Another id, with a label of its own, is another key in the same token."""
    first = _json(run("init", "--json"))
    clash = run("init", PKCS11_KEY_ID="02")
    second = _json(run("init", "--json", "--label", "two", PKCS11_KEY_ID="02"))

    assert clash.returncode != 0
    assert "a key with this label exists already" in clash.stderr
    assert first["address"] != second["address"]
    assert [key["key_id"] for key in _json(run("list", "--json"))] == ["01", "02"]


def test_init_runs_twice_at_once(environ: dict[str, str]) -> None:
    """Two that start together make one token and one key."""
    started = [
        subprocess.Popen(
            [*COMMAND, "init", "--json"], env=environ, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]

    addresses = {json.loads(each.communicate()[0])["address"] for each in started}

    assert len(addresses) == 1


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_init_may_be_killed_at_any_time(
    run: Command, environ: dict[str, str], share: float
) -> None:
    """After ``kill -9`` another run completes what there is, and it signs."""
    started = time.monotonic()
    run("init", HOTWALLET_HOME=environ["HOTWALLET_HOME"] + "-rehearsal")
    took = time.monotonic() - started
    process = subprocess.Popen([*COMMAND, "init"], env=environ, stdout=subprocess.PIPE)
    time.sleep(took * share)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    wallet = _json(run("init", "--json"))

    assert _json(run("list", "--json"))[0]["address"] == wallet["address"]
    assert run("doctor").returncode == 0


def test_init_sweeps_up_what_was_interrupted(run: Command, program: Command) -> None:
    """What SoftHSM leaves behind when it is killed over a new key never signs."""
    run("init")
    program("destroy", "PRIVATE_KEY")
    program("stillborn")

    assert run("doctor").returncode == 1
    assert _json(run("init", "--json"))["address"]
    assert run("doctor").returncode == 0


def test_init_never_replaces_a_private_key(run: Command, program: Command) -> None:
    """A key without its public half may have an address with money: it stays."""
    run("init")
    program("destroy", "PUBLIC_KEY")

    refused = run("init")

    assert refused.returncode != 0
    assert "the key is there in part: repeat its import" in refused.stderr
    assert [key["key_id"] for key in _json(run("list", "--json"))] == ["01"]


def test_init_takes_no_token_that_it_was_not_meant_to(run: Command) -> None:
    """If the environment leads to another token, the project's is not made."""
    refused = run("init", SOFTHSM2_CONF="/etc/softhsm2.conf")

    assert refused.returncode != 0
    assert "softhsm-elsewhere" in refused.stderr


def test_init_never_erases_a_device(run: Command, tmp_path: Path) -> None:
    """A module that is not there, or no SoftHSM, gets no C_InitToken."""
    refused = run("init", PKCS11_MODULE=str(tmp_path / "vendor.so"))

    assert refused.returncode != 0
    assert "the PKCS#11 module does not load" in refused.stderr


def test_init_refuses_a_label_that_a_token_cannot_have(run: Command) -> None:
    """A token's label is 32 bytes in UTF-8, and is not cut off in silence."""
    refused = run("init", PKCS11_TOKEN_LABEL="\N{COFFIN}" * 9)

    assert refused.returncode != 0
    assert "PKCS11_TOKEN_LABEL is longer than 32 bytes" in refused.stderr


def test_a_killed_login_loses_no_token(run: Command, layout: Layout) -> None:
    """SoftHSM empties a token's file at each login; the copy brings it back."""
    wallet = _json(run("init", "--json"))
    (token,) = layout.tokens.iterdir()
    (token / "token.object").write_bytes(b"")

    assert _json(run("init", "--json")) == wallet


@pytest.mark.parametrize("prefix", ["", "0x"])
def test_import_moves_a_key_in(run: Command, prefix: str) -> None:
    """A raw key becomes one that the token guards, on a machine without a token."""
    imported = run("import", stdin=f" {prefix}{SECRET}\n")
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


def test_an_imported_key_is_what_init_finds(run: Command) -> None:
    """After an import, ``init`` has nothing to make, and ``doctor`` says its piece."""
    run("import", stdin=SECRET)

    assert _json(run("init", "--json"))["address"] == ADDRESS
    assert "it was imported, so copies may exist" in run("doctor").stdout


def test_import_reads_a_file_of_its_owner_only(run: Command, tmp_path: Path) -> None:
    """A key file that others may read is refused before it is read."""
    path = tmp_path / "key"
    replace_private(path, SECRET.encode())
    path.chmod(0o640)
    refused = run("import", "--file", str(path))
    path.chmod(0o600)

    assert refused.returncode != 0
    assert "others may read the key file: chmod 600 it" in refused.stderr
    assert _json(run("import", "--json", "--file", str(path))) == {
        "address": ADDRESS,
        "key_id": "01",
    }


def test_import_twice_is_import_once(run: Command) -> None:
    """The same key again changes nothing."""
    first = run("import", "--json", stdin=SECRET)

    assert run("import", "--json", stdin=SECRET).stdout == first.stdout
    assert len(_json(run("list", "--json"))) == 1


@pytest.mark.parametrize("half", ["PRIVATE_KEY", "PUBLIC_KEY"])
def test_import_completes_an_interrupted_one(
    run: Command, program: Command, half: str
) -> None:
    """Whichever half is missing is created when the import is repeated."""
    run("import", stdin=SECRET)
    program("destroy", half)

    assert run("doctor").returncode == 1
    assert _json(run("import", "--json", stdin=SECRET))["address"] == ADDRESS
    assert run("doctor").returncode == 0


@pytest.mark.parametrize("missing", [None, "PUBLIC_KEY", "PRIVATE_KEY"])
def test_import_replaces_no_other_key(
    run: Command, program: Command, missing: str | None
) -> None:
    """Another key under the same id is refused, by either of its halves."""
    run("init")
    if missing:
        program("destroy", missing)

    refused = run("import", stdin=SECRET)

    assert refused.returncode != 0
    assert "another key has this id" in refused.stderr
    assert SECRET not in refused.stdout + refused.stderr


def test_import_gives_no_label_twice(run: Command) -> None:
    """P10: a key under another id has the label already."""
    run("init")

    refused = run("import", "--label", "hotwallet", stdin=SECRET, PKCS11_KEY_ID="02")

    assert refused.returncode != 0
    assert "another key has this label" in refused.stderr


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
def test_import_takes_private_keys_only(run: Command, text: str) -> None:
    """32 bytes in hex, from 1 to n-1, or nothing; what was given is not quoted."""
    refused = run("import", stdin=text)

    assert refused.returncode != 0
    assert "a private key is 64 hex digits, and less than n" in refused.stderr
    assert not text.strip() or text.strip() not in refused.stderr


def test_import_takes_the_greatest_key(run: Command) -> None:
    """n-1 is a private key."""
    assert _json(run("import", "--json", stdin=f"{N - 1:064x}"))["address"]


def test_import_takes_no_key_from_argv(run: Command) -> None:
    """All users of a machine may read argv, so there is no such argument."""
    refused = run("import", SECRET)

    assert refused.returncode == 2


def test_doctor_stops_at_the_first_failure(run: Command) -> None:
    """What stands above a failure is unknown; the cure is next to the failure."""
    rungs = _json(run("doctor", "--json"))

    states = [rung["state"] for rung in rungs]
    first = states.index("failed")
    assert set(states[:first]) <= {"ok"}
    assert set(states[first + 1 :]) == {"unknown"}
    assert rungs[first]["cure"]


@pytest.mark.parametrize(
    ("variables", "rung"),
    [
        ({}, None),
        ({"PKCS11_MODULE": "/nowhere/module.so"}, "loads"),
        ({"PKCS11_TOKEN_LABEL": "elsewhere"}, "token"),
        ({"PKCS11_PIN_FILE": "/nowhere/pin"}, "pin"),
        ({"PKCS11_PIN": "not the PIN"}, "login"),
        ({"PKCS11_KEY_ID": "02"}, "key"),
    ],
)
def test_doctor_names_the_rung(
    run: Command, variables: dict[str, str], rung: str | None
) -> None:
    """Each mistake is found where it is, and the exit status is 1 for any."""
    run("init")

    finished = run("doctor", "--json", **variables)

    failed = [each["name"] for each in _json(finished) if each["state"] == "failed"]
    assert failed == ([rung] if rung else [])
    assert finished.returncode == (1 if rung else 0)


def test_doctor_finds_two_halves_of_different_keys(
    run: Command, program: Command
) -> None:
    """A signature that does not recover to the public key is found last."""
    run("init")
    program("destroy", "PUBLIC_KEY")
    program("other-half")

    failed = [
        rung["name"]
        for rung in _json(run("doctor", "--json"))
        if rung["state"] == "failed"
    ]

    assert failed == ["signs"]


@pytest.fixture
def program(environ: dict[str, str]) -> Command:
    """Run one of ``tests.fixtures.softhsm_programs`` in the same environment."""

    def run(*arguments: str) -> Finished:
        return subprocess.run(
            [sys.executable, "-m", "tests.fixtures.softhsm_programs", *arguments],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    return run


def _json(finished: Finished) -> Any:
    assert finished.stdout, finished.stderr
    return json.loads(finished.stdout)
