"""The doctor names what is broken, goes on with what is not, and never falls ill."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from api.doctor.checks import Check, CheckResult, Finding, State, run_checks
from api.doctor.command import examination, told
from api.doctor.context import DoctorContext
from api.doctor.system_checks import steps
from backends.pkcs11 import PKCS11Backend
from backends.sql import SQLStore
from dev import stablecoin as coin
from signer.config.settings import Settings
from signer.crypto.der import parse_public_key
from signer.errors import (
    ConfigurationError,
    KeyNotFoundError,
    Refusal,
    StoreUnavailableError,
)
from signer.model.wallet import Pause
from signer.ports import KeyId
from tests.api.doctor.examined import OPENERS, examined, furnished, states
from tests.fixtures import ledger
from tests.fixtures.chain import DevChain
from tests.support.audit import chain, checkpoint, record


ROOT = Path(__file__).parents[3]
CANARY = "canary-48213"


def _finding(said: str = "well") -> Callable[[], Finding]:
    return lambda: Finding(said)


def _failing(error: Exception) -> Callable[[], Finding]:
    def look() -> Finding:
        raise error

    return look


def _climbed(*steps: Check) -> list[tuple[str, str]]:
    return [(rung.name, str(rung.state)) for rung in run_checks(steps)]


def test_what_stands_on_a_broken_rung_is_skipped() -> None:
    """One cause is named once; everything above it is skipped, the rest is climbed."""
    assert _climbed(
        Check("device", _failing(KeyNotFoundError("no such key")), "mend it"),
        Check("database", _finding(), ""),
        Check("signature", _finding(), "", ("database", "device")),
        Check("mined", _finding(), "", ("signature",)),
        Check("audit", _finding(), "", ("database",)),
    ) == [
        ("device", "failed"),
        ("database", "ok"),
        ("signature", "skipped"),
        ("mined", "skipped"),
        ("audit", "ok"),
    ]


def test_a_warning_carries_what_stands_on_it() -> None:
    """A warning is no failure: the ladder goes on."""
    warned = Check("guard", lambda: Finding("not safe", "nothing on a laptop"), "")

    assert _climbed(warned, Check("device", _finding(), "", ("guard",))) == [
        ("guard", "warning"),
        ("device", "ok"),
    ]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            KeyNotFoundError("there is no such key"),
            "key-not-found: there is no such key",
        ),
        (
            ConfigurationError(Refusal("a-b", "do this"), Refusal("c-d", "and that")),
            "a-b: do this; c-d: and that",
        ),
        (ValueError(CANARY), "internal-error: ValueError"),
        (
            StoreUnavailableError("postgresql://u:canary@h/d is down"),
            "store-unavailable: [redacted] is down",
        ),
    ],
)
def test_a_failure_is_told_in_our_words(error: Exception, said: str) -> None:
    """Our errors by code and message; of others only the class, and no secret."""
    (rung,) = run_checks([Check("device", _failing(error), "mend it")])

    assert rung == CheckResult("device", State.FAILED, said, "mend it")


def test_a_rung_that_hangs_is_left() -> None:
    """The doctor does not hang with what hangs."""
    released = threading.Event()
    began = time.monotonic()

    def hang() -> Finding:
        released.wait()
        return Finding("late")

    steps = [Check("device", hang, "unplug it"), Check("database", _finding(), "")]
    found = [str(rung.state) for rung in run_checks(steps, seconds=2.5)]
    released.set()

    assert found == ["failed", "ok"]
    assert time.monotonic() - began < 10


def test_steps_are_made_of_what_was_found() -> None:
    """A later step may exist because of what an earlier one saw."""
    seen: list[str] = []

    def look() -> Finding:
        seen.append("base")
        return Finding("one network")

    def steps() -> Iterator[Check]:
        yield Check("networks", look, "")
        for name in seen:
            yield Check(name, _finding(), "")

    assert [rung.name for rung in run_checks(steps())] == ["networks", "base"]


def test_a_person_is_told_what_to_do() -> None:
    """A line for the finding, and one for the cure where there is one."""
    assert list(told(CheckResult("device", State.FAILED, "gone", "mend it"))) == [
        "failed   device             gone",
        "                            -> mend it",
    ]
    assert len(list(told(CheckResult("device", State.OK, "here")))) == 1


@pytest.fixture
def home(
    softhsm_environ: dict[str, str],
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
    fresh_anvil: DevChain,
    tmp_path: Path,
) -> dict[str, str]:
    """The environment of a system in order: token, anvil, a funded key, JWT keys."""
    address = parse_public_key(softhsm.public_key(softhsm_key)).address
    coin.fund(fresh_anvil.url, address, token=fresh_anvil.token)
    return {
        **softhsm_environ,
        **furnished(tmp_path, fresh_anvil),
        "PKCS11_KEY_ID": softhsm_key,
    }


IN_ORDER = {
    "settings": "ok",
    "networks": "ok",
    "guard": "warning",  # SoftHSM is not safe for production.
    "proxy": "ok",
    "tokens": "ok",
    "database": "ok",
    "role": "ok",
    "device": "ok",
    "key": "warning",  # Nobody enrolled it yet.
    "signature": "ok",
    "audit": "ok",
    "checkpoints": "ok",
    "local nodes": "ok",
    "local chain": "ok",
    "local gas": "ok",
    "local TUSD": "ok",
    "local nonces": "ok",
    "local worker": "ok",
    "local mined": "warning",  # Nothing was ever paid.
}


def test_a_system_in_order(home: dict[str, str]) -> None:
    """Every rung is there, in order, and none failed."""
    rungs = examined(home)

    assert list(states(rungs).items()) == list(IN_ORDER.items())
    assert "NOT SAFE FOR PRODUCTION" in rungs["guard"].said
    assert "has been mined yet" in rungs["local mined"].said


@pytest.mark.parametrize(
    ("app_env", "state"), [("test", State.WARNING), ("production", State.FAILED)]
)
def test_a_role_that_could_change_the_audit(
    postgresql_url: str, app_env: str, state: State
) -> None:
    """On a laptop it is a warning what in production is a refusal."""
    environ = {"APP_ENV": app_env, "DATABASE_URL": postgresql_url}
    patient = DoctorContext(environ, OPENERS)
    patient.settings = Settings.from_env(environ)
    with closing(SQLStore(postgresql_url)) as patient.store:
        (rung,) = run_checks(step for step in steps(patient) if step.name == "role")

    assert rung.state is state
    assert "is a superuser" in rung.said
    assert rung.cure is not None


def test_who_is_believed(home: dict[str, str]) -> None:
    """The doctor tells whose word counts; that it is nobody's is for laptops only."""
    assert "none is needed" in examined(home)["proxy"].said

    rung = examined(home, APP_ENV="production", TRUSTED_PROXIES="10.0.0.7")["proxy"]
    assert (rung.state, rung.cure) == (State.OK, None)
    assert "10.0.0.7/32" in rung.said


OF_THE_ADDRESS = {"local gas", "local TUSD", "local mined"}

BROKEN = [
    (
        {"PKCS11_KEY_ID": "77"},
        {"device": "failed", "key": "skipped", "signature": "skipped"},
        {"local nonces", "local worker", *OF_THE_ADDRESS},
    ),
    (
        {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/refunds"},
        {"database": "failed", "key": "skipped", "signature": "skipped"},
        # Whose money it is, only the ring knows.
        {
            "role",
            "audit",
            "checkpoints",
            "local nonces",
            "local worker",
            *OF_THE_ADDRESS,
        },
    ),
    ({"JWT_PUBLIC_KEY_FILE": "/nowhere/jwt.pem"}, {"tokens": "failed"}, set()),
    ({"AUDIT_SIGNING_KEY_FILE": "/nowhere/a.pem"}, {"checkpoints": "failed"}, set()),
    ({"AUDIT_SIGNING_KEY_FILE": None}, {"checkpoints": "warning"}, set()),
    ({"WALLET_ADDRESS": "0x" + "11" * 20}, {"key": "failed"}, {"signature"}),
    (
        {"APP_ENV": "production", "USE_KMS": "false"},
        # In production nobody but an operator makes the schema.
        {
            "guard": "failed",
            "proxy": "warning",
            "database": "failed",
            "key": "skipped",
        },
        {
            "role",
            "signature",
            "audit",
            "checkpoints",
            "local nonces",
            "local worker",
            *OF_THE_ADDRESS,
        },
    ),
]


@pytest.mark.parametrize(("changed", "found", "skipped"), BROKEN)
def test_half_of_it_broken(
    home: dict[str, str],
    changed: dict[str, str],
    found: dict[str, str],
    skipped: set[str],
) -> None:
    """What is broken fails, what stands on it is skipped, and all else is as ever."""
    rungs = examined(home, **changed)

    expected = {**IN_ORDER, **found, **dict.fromkeys(skipped, "skipped")}
    assert states(rungs) == expected
    assert all(rung.cure for rung in rungs.values() if rung.state is State.FAILED)


def test_settings_that_are_none(home: dict[str, str]) -> None:
    """With a variable malformed, everything else waits for it, and it is named."""
    rungs = examined(home, WEB_THREADS=CANARY)

    assert rungs["settings"].said.startswith("settings-invalid: WEB_THREADS")
    assert {str(rung.state) for rung in rungs.values()} == {"failed", "skipped"}
    assert CANARY not in str(rungs)


def _with_network(home: dict[str, str], old: str, new: str) -> dict[str, str]:
    path = Path(home["NETWORKS_FILE"])
    path.write_text(path.read_text().replace(old, new))
    return home


@pytest.mark.parametrize(
    ("old", "new", "failed"),
    [
        ("chain_id = 31337", "chain_id = 1", "local nodes"),
        ("decimals = 6", "decimals = 18", "local chain"),
        ("http://127.0.0.1:", "http://127.0.0.1:1/canary-48213", "local nodes"),
        ("chain_id", "chain_idd", "networks"),
    ],
)
def test_a_network_that_is_not_as_configured(
    home: dict[str, str], old: str, new: str, failed: str
) -> None:
    """The network's own rungs say so, and nothing shows the URL."""
    rungs = examined(_with_network(home, old, new))

    (first, *_) = [rung for rung in rungs.values() if rung.state is State.FAILED]
    assert first.name == failed
    assert rungs["device"].state is State.OK
    assert CANARY not in str(rungs)


def test_an_empty_wallet(home: dict[str, str], fresh_anvil: DevChain) -> None:
    """A wallet that cannot pay for gas fails, and the runbook is named."""
    rungs = examined(home)
    address = rungs["device"].said.rpartition(" ")[2]
    fresh_anvil.rpc("anvil_setBalance", address, "0x0")

    rung = examined(home)["local gas"]

    assert rung.state is State.FAILED
    assert rung.said.startswith("insufficient-funds")
    assert rung.cure == "docs/operations/wallet-empty.md"


def _address(home: Mapping[str, str]) -> str:
    return examined(home)["device"].said.rpartition(" ")[2]


def _store(home: Mapping[str, str]) -> SQLStore:
    return SQLStore(home["DATABASE_URL"])


def test_a_network_that_was_stopped(home: dict[str, str]) -> None:
    """The kill switch is found where nonces are, and how to let it go on."""
    examined(home)
    _store(home).stop(31337, ledger.now())

    rung = examined(home)["local nonces"]

    assert rung.state is State.FAILED
    assert "hotwallet nonce resume" in rung.said


def test_a_wallet_that_is_paused(home: dict[str, str]) -> None:
    """A wallet that gives out no nonces is named, with the reason."""
    address, store = _address(home), _store(home)
    ledger.opened(store, sender=address)
    wallet = store.wallet(31337, address)
    assert wallet is not None
    store.pause(wallet, Pause.FOREIGN_TRANSACTION, ledger.now())

    rung = examined(home)["local nonces"]

    assert rung.said == f"wallet-paused: {address} is paused: foreign-transaction"
    assert rung.cure is not None
    assert rung.cure.startswith("hotwallet nonce repair")


@pytest.mark.parametrize(
    ("seconds", "state"), [(-61, State.FAILED), (-30, State.OK), (30, State.OK)]
)
def test_a_worker_that_does_not_work(
    home: dict[str, str], seconds: int, state: State
) -> None:
    """A refund that nobody took up for a minute says that no worker runs."""
    address, store = _address(home), _store(home)
    ledger.opened(store, sender=address)
    refund = ledger.accepted(store)
    reserved = ledger.reserved(store, refund, sender=address)
    store.save(reserved, reserved.postponed(ledger.later(seconds)))

    rung = examined(home)["local worker"]

    assert rung.state is state
    assert (refund.id in rung.said) == (state is State.FAILED)


def test_nobody_seals(home: dict[str, str]) -> None:
    """Without a worker this run's own record is not sealed, and that is found."""
    patient = DoctorContext(home, OPENERS)
    rungs = {rung.name: rung for rung in run_checks(examination(patient))}

    assert rungs["audit"].state is State.FAILED
    assert rungs["audit"].said.startswith("audit-sealing-late")
    assert rungs["local mined"].state is State.WARNING


@pytest.mark.parametrize(
    ("age", "note", "said"),
    [
        (timedelta(minutes=30), False, "signed as hotwallet: 0 records, and "),
        (timedelta(hours=2), False, "audit-signing-late: nobody has signed for the"),
        (timedelta(hours=2), True, "audit-chain-broken: audit record 1 differs"),
    ],
)
def test_nobody_signs(
    home: dict[str, str], age: timedelta, note: bool, said: str
) -> None:
    """That nobody signs is found, and so is a chain that was rewritten."""
    store = _store(home)
    store.migrate()
    store.append([record(at=ledger.now() - age)])
    store.seal()
    if note:
        store.keep_checkpoint(checkpoint(chain(1), 1))

    rung = examined(home)["checkpoints"]

    assert rung.said.startswith(said)
    assert rung.state is (State.FAILED if said.startswith("audit") else State.OK)


def test_somebody_else_signs(home: dict[str, str]) -> None:
    """A last checkpoint by another key is a warning, however fresh it is."""
    store = _store(home)
    store.migrate()
    store.append([record(at=ledger.now() - timedelta(hours=2))])
    store.seal()
    store.keep_checkpoint(checkpoint(store.sealed(0, 1), 1, at=ledger.now()))

    rung = examined(home)["checkpoints"]

    assert rung.state is State.WARNING
    assert "not by this host's key" in rung.said


def test_the_last_rung_is_a_mined_transaction(
    home: dict[str, str], fresh_anvil: DevChain
) -> None:
    """It is the newest one of the key on the chain itself, with its block."""
    address = _address(home)
    fresh_anvil.rpc("anvil_impersonateAccount", address)
    receipt = fresh_anvil.rpc.transact({"from": address, "to": address, "value": "0x0"})

    rung = examined(home)["local mined"]

    assert rung.state is State.OK
    block = int(receipt["blockNumber"], 16)
    assert rung.said == f"{receipt['transactionHash']} in block {block}"


def _doctor(
    environ: Mapping[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    program = "from api.doctor.command import doctor; doctor()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_with_nothing_configured(tmp_path: Path) -> None:
    """An empty environment is production: status 1, a cure each, and no traceback."""
    finished = _doctor({"HOTWALLET_HOME": str(tmp_path)}, "--json")

    document = json.loads(finished.stdout)
    states = {rung["name"]: rung["state"] for rung in document["rungs"]}
    assert finished.returncode == 1
    assert document["ok"] is False
    assert states["settings"] == "ok"
    assert states["guard"] == "failed"
    assert states["signature"] == "skipped"
    assert "Traceback" not in finished.stdout + finished.stderr


def test_the_command_of_a_system_in_order(
    home: dict[str, str], softhsm_environ: dict[str, str]
) -> None:
    """Lines for a person on standard output, and the log on the other one."""
    store = _store(home)
    stop = threading.Event()
    store.migrate()

    def seal() -> None:
        while not stop.wait(0.1):
            store.seal()

    sealer = threading.Thread(target=seal)
    sealer.start()
    finished = _doctor({**home, **softhsm_environ})
    stop.set()
    sealer.join()

    lines = finished.stdout.splitlines()
    assert finished.returncode == 0, finished.stdout
    assert {line.split()[0] for line in lines} == {"ok", "warning", "->"}
    assert '"event": "digest-sign-succeeded"' in finished.stderr
