"""``hotwallet doctor`` reports what is broken, and checks everything else."""

import json
import re
import subprocess
from collections.abc import Mapping
from contextlib import (
    closing,
    suppress,
)
from datetime import timedelta
from pathlib import Path

import pytest

from api.bootstrap import build_container, record_start
from api.extras.doctor.commands import all_checks
from api.extras.doctor.key_checks import DoctorContext
from api.extras.doctor.system_checks import system_checks
from backends.pkcs11 import PKCS11Backend
from backends.sql import SQLStore
from dev import stablecoin as coin
from signer.alerts import Alerts
from signer.approvals import Approvals
from signer.audit.checkpoints import CheckpointKey
from signer.audit.log import AuditLog
from signer.crypto.der import parse_public_key
from signer.diagnostics import Check, State, run_checks
from signer.errors import (
    ApprovalRequiredError,
)
from signer.model.approval import Proposal
from signer.model.audit_record import Actor
from signer.model.event import DeliveryState
from signer.model.refund import Status
from signer.model.wallet import Pause
from signer.model.worker_row import WorkerRow
from signer.ports.audit_journal import Checkpoint
from signer.ports.clock import utc_now
from signer.ports.event_store import DeliveryAttempt
from signer.ports.key_backend import KeyId
from signer.webhooks.signatures import Secret
from tests.api.cli.test_lazy_commands import DEVICE_READ, NODES_READ, RUN
from tests.api.networks import write_networks
from tests.api.readings import measured
from tests.extras.doctor.doctor import make_environ, run_doctor, sealing, states
from tests.extras.screening.screened import screened, screening_service
from tests.fixtures import ledger
from tests.fixtures.chain import DevChain
from tests.fixtures.ledger import save
from tests.support.audit import chain, checkpoint, record
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger, seal
from tests.support.programs import run_python
from tests.support.refunds import SECOND
from tests.support.ring import SILENCE
from tests.support.vault import deploy_vault


CANARY = "canary-48213"


@pytest.fixture
def home(
    softhsm_environ: dict[str, str],
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
    fresh_anvil: DevChain,
    tmp_path: Path,
) -> dict[str, str]:
    """The environment of a healthy system: token, anvil, a funded key, JWT keys."""
    address = parse_public_key(softhsm.public_key(softhsm_key)).address
    coin.fund(fresh_anvil.url, address, token=fresh_anvil.token)
    # A service that another test started makes this key.
    Path(softhsm_environ["HOTWALLET_HOME"], "audit.pem").unlink(missing_ok=True)
    return {
        **softhsm_environ,
        **make_environ(tmp_path, fresh_anvil),
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
    "key": "warning",  # The ring is empty.
    "signature": "ok",
    "audit": "ok",
    "checkpoints": "ok",
    "approvals": "ok",
    "workers": "warning",  # None was started.
    "throttling": "ok",
    "limits": "ok",
    "webhooks": "ok",
    "screening": "ok",
    "top-ups": "ok",
    "local nodes": "ok",
    "local chain": "ok",
    "local kind": "ok",
    "local gas": "ok",
    "local delegation": "ok",
    "local TUSD": "ok",
    "local runway": "ok",
    "local nonces": "ok",
    "local worker": "ok",
    "local mined": "warning",  # No transaction was sent.
}


def test_a_healthy_system(home: dict[str, str]) -> None:
    results = run_doctor(home)

    assert list(states(results).items()) == list(IN_ORDER.items())
    assert "NOT SAFE FOR PRODUCTION" in results["guard"].detail
    assert "has been mined yet" in results["local mined"].detail
    short = build_container(home).configuration.short
    assert results["networks"].detail == f"local; configuration {short}"


def test_a_vault_is_checked(home: dict[str, str], fresh_anvil: DevChain) -> None:
    """Its rules, its tokens, and whether a revoked key may still pay."""
    address = _address(home)
    vault = deploy_vault(
        fresh_anvil.url,
        fresh_anvil.token,
        caps=(5, 9),
        funds=0,
        operators=[address],
    )
    file = Path(home["NETWORKS_FILE"])
    write_networks(file, fresh_anvil.url, fresh_anvil.token, vault=vault.address)
    fine = run_doctor(home)
    coin.administer(
        vault.url, vault.token, "mint(address,uint256)", vault.address, 7 * 10**6
    )
    funded = run_doctor(home)["local TUSD"]
    store = _store(home)
    made_active(store, key_at(address))
    made_active(store, key_at(SECOND.address), block=True)
    vault.after_delay("addOperator(address)", SECOND.address)
    revoked = run_doctor(home)["local vault"]
    vault.call(vault.guardian, "removeOperator(address)", SECOND.address)
    missing = run_doctor(home)["local vault"]

    assert fine["local vault"].state is State.OK
    assert fine["local TUSD"].detail == f"{vault.address} holds no TUSD"
    assert funded.detail.startswith(f"7.000000 on {vault.address}; 1000000.000000 on")
    assert funded.detail.endswith(f"{address}, from which no refund is paid")
    assert revoked.state is State.WARNING
    assert f"--remove-operator {address}" in revoked.detail
    assert missing.state is State.FAILED
    assert f"--add-operator {SECOND.address}" in missing.detail


def test_it_loads_only_the_libraries_that_it_uses(home: dict[str, str]) -> None:
    """With a device and a node, so that every check runs to its end."""
    with closing(open_ledger(home["DATABASE_URL"])) as store:
        store.migrate()
        with sealing(store):
            finished = run_python("-c", RUN, "doctor", environ=home)

    assert finished.returncode == 0, finished.stdout
    loaded = set(finished.stderr.rpartition("loaded:")[2].split())
    assert loaded <= {*DEVICE_READ, *NODES_READ, "jwt"}


@pytest.mark.parametrize(
    ("app_env", "state"), [("test", State.WARNING), ("production", State.FAILED)]
)
def test_a_role_that_could_change_the_audit(
    postgresql_url: str, app_env: str, state: State
) -> None:
    """It is a warning in development, and a failure in production."""
    environ = {"APP_ENV": app_env, "DATABASE_URL": postgresql_url}
    context = DoctorContext(build_container(environ))
    context.settings = context.container.settings
    with closing(open_ledger(postgresql_url)) as context.container.store:
        (result,) = run_checks(
            check for check in system_checks(context) if check.name == "role"
        )

    assert result.state is state
    assert "is a superuser" in result.detail
    assert result.cure is not None


def test_trusted_proxies_are_listed(home: dict[str, str]) -> None:
    assert "is fine outside production" in run_doctor(home)["proxy"].detail

    result = run_doctor(home, APP_ENV="production", TRUSTED_PROXIES="10.0.0.7")["proxy"]
    assert (result.state, result.cure) == (State.OK, None)
    assert "10.0.0.7/32" in result.detail


OF_THE_ADDRESS = {"local gas", "local delegation", "local TUSD", "local mined"}

BROKEN = [
    (
        {"PKCS11_KEY_ID": "77"},
        {"device": "failed", "key": "skipped", "signature": "skipped"},
        {"local runway", "local nonces", "local worker", *OF_THE_ADDRESS},
    ),
    (
        {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/refunds"},
        {"database": "failed", "key": "skipped", "signature": "skipped"},
        # Only the ring has the wallet's address.
        {
            "role",
            "audit",
            "checkpoints",
            "approvals",
            "workers",
            "throttling",
            "limits",
            "webhooks",
            "top-ups",
            "local runway",
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
        # In production only `db upgrade` creates the schema.
        {
            "guard": "failed",
            "proxy": "warning",
            "database": "failed",
            "device": "warning",  # It is SoftHSM.
            "key": "skipped",
        },
        {
            "role",
            "signature",
            "audit",
            "checkpoints",
            "approvals",
            "workers",
            "throttling",
            "limits",
            "webhooks",
            "top-ups",
            "local runway",
            "local nonces",
            "local worker",
            *OF_THE_ADDRESS,
        },
    ),
]


@pytest.mark.parametrize(("changed", "found", "skipped"), BROKEN)
def test_broken_parts(
    home: dict[str, str],
    changed: dict[str, str],
    found: dict[str, str],
    skipped: set[str],
) -> None:
    """Only the broken part fails; checks that need it are skipped."""
    results = run_doctor(home, **changed)

    expected = {**IN_ORDER, **found, **dict.fromkeys(skipped, "skipped")}
    assert states(results) == expected
    assert all(
        result.cure for result in results.values() if result.state is State.FAILED
    )


def test_a_malformed_setting_is_named(home: dict[str, str]) -> None:
    """All other checks are skipped."""
    results = run_doctor(home, WEB_THREADS=CANARY)

    assert results["settings"].detail.startswith("settings-invalid: WEB_THREADS")
    assert {str(result.state) for result in results.values()} == {"failed", "skipped"}
    assert CANARY not in str(results)


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
    """The network's own check fails, and nothing shows the URL."""
    results = run_doctor(_with_network(home, old, new))

    (first, *_) = [
        result for result in results.values() if result.state is State.FAILED
    ]
    assert first.name == failed
    assert results["device"].state is State.OK
    assert CANARY not in str(results)


def test_a_kind_that_the_node_does_not_show(home: dict[str, str]) -> None:
    """It is a warning with the key that differs, and what to do."""
    keys = 'chain_id = 31337\ndata_fee = "op-stack"'
    result = run_doctor(_with_network(home, "chain_id = 31337", keys))["local kind"]

    assert result.state is State.WARNING
    assert result.detail == (
        "node-1: data_fee is op-stack, and the chain does not have one"
    )
    assert "hotwallet network probe" in str(result.cure)


def test_a_wallet_without_gas_fails(
    home: dict[str, str], fresh_anvil: DevChain
) -> None:
    results = run_doctor(home)
    address = results["device"].detail.rpartition(" ")[2]
    fresh_anvil.rpc("anvil_setBalance", address, "0x0")

    result = run_doctor(home)["local gas"]

    assert result.state is State.FAILED
    assert result.detail.startswith("insufficient-funds")
    assert result.cure == "send funds to the address"


def test_a_delegated_wallet_is_reported(
    home: dict[str, str], fresh_anvil: DevChain
) -> None:
    """T7: with the name of the alert, and what to do."""
    address = run_doctor(home)["device"].detail.rpartition(" ")[2]
    fresh_anvil.rpc("anvil_setCode", address, f"0xef0100{'11' * 20}")

    result = run_doctor(home)["local delegation"]

    assert (result.state, result.code) == (State.WARNING, "wallet-delegated")
    assert "key-compromise" in str(result.cure)


def _address(home: Mapping[str, str]) -> str:
    return run_doctor(home)["device"].detail.rpartition(" ")[2]


def _store(home: Mapping[str, str]) -> SQLStore:
    return open_ledger(home["DATABASE_URL"])


def test_a_stopped_network_is_reported(home: dict[str, str]) -> None:
    run_doctor(home)
    ledger.stopped(_store(home))

    result = run_doctor(home)["local nonces"]

    assert result.state is State.FAILED
    assert "hotwallet resume" in result.detail


def test_a_paused_wallet_is_reported(home: dict[str, str]) -> None:
    address, store = _address(home), _store(home)
    ledger.opened(store, sender=address)
    wallet = store.wallet(31337, address)
    assert wallet is not None
    store.pause(wallet, Pause.FOREIGN_TRANSACTION, ledger.now())

    result = run_doctor(home)["local nonces"]

    assert result.detail == f"wallet-paused: {address} is paused: foreign-transaction"
    assert result.cure is not None
    assert result.cure.startswith("run: hotwallet nonce repair")


@pytest.mark.parametrize(
    ("seconds", "state"), [(-61, State.FAILED), (-30, State.OK), (30, State.OK)]
)
def test_an_overdue_refund_shows_that_no_worker_runs(
    home: dict[str, str], seconds: int, state: State
) -> None:
    address, store = _address(home), _store(home)
    ledger.opened(store, sender=address)
    refund = ledger.accepted(store)
    reserved = ledger.reserved(store, refund, sender=address)
    save(store, reserved, ledger.delay(reserved, ledger.later(seconds)))

    result = run_doctor(home)["local worker"]

    assert result.state is state
    assert (refund.id in result.detail) == (state is State.FAILED)


@pytest.mark.parametrize(
    ("status", "age", "blocked_by", "code"),
    [
        (Status.QUEUED, 30, None, None),
        (Status.QUEUED, 61, None, "refund-overdue"),
        (Status.QUEUED, 61, "limit-reached", None),
        (Status.QUEUED, 901, "limit-reached", "refunds-late"),
        (Status.AWAITING_APPROVAL, 901, None, None),
    ],
)
def test_a_refund_without_a_nonce_is_counted(
    home: dict[str, str],
    status: Status,
    age: int,
    blocked_by: str | None,
    code: str | None,
) -> None:
    """Whatever it waits for: "0 open refunds" would be wrong."""
    since = ledger.now() - timedelta(seconds=age)
    waiting = ledger.queued(status=status, updated_at=since, blocked_by=blocked_by)
    assert _address(home)
    ledger.filled(_store(home), [waiting])

    result = run_doctor(home)["local worker"]

    assert "1 open refunds" in result.detail
    assert result.code == code
    assert (result.state is State.FAILED) == (code is not None)
    assert ("(limit-reached)" in result.detail) == (blocked_by is not None)


def test_a_chain_without_new_blocks_is_shown(home: dict[str, str]) -> None:
    """A worker measured it."""
    age = 'hotwallet_network_head_age_seconds{network="local"} 301\n'
    now = ledger.now()
    assert _address(home)
    _store(home).record_pass(WorkerRow("a", now, now, measured(age)))

    result = run_doctor(home)["local worker"]

    assert (result.state, result.code) == (State.WARNING, "chain-stalled")


def test_an_unreachable_database_has_the_name_of_its_alert(
    home: dict[str, str],
) -> None:
    url = "postgresql://tests@127.0.0.1:1/ledger"
    result = run_doctor(home, DATABASE_URL=url)["database"]

    assert (result.state, result.code) == (State.FAILED, "database-unreachable")


def test_a_lost_quorum_has_the_name_of_its_alert(home: dict[str, str]) -> None:
    down = _with_network(home, "http://127.0.0.1:", "http://127.0.0.1:1/")

    result = run_doctor(down)["local nodes"]

    assert (result.state, result.code) == (State.FAILED, "quorum-lost")


@pytest.mark.parametrize(
    ("seconds", "state", "detail"),
    [
        (3, State.OK, r"worker a completed a pass \d+ s ago"),
        (60, State.FAILED, r"worker-stopped: worker a completed a pass \d+ s ago"),
    ],
)
def test_workers_are_shown(
    home: dict[str, str], seconds: int, state: State, detail: str
) -> None:
    store = _store(home)
    store.migrate()
    at = utc_now() - timedelta(seconds=seconds)
    store.record_pass(WorkerRow("a", at, at))
    result = run_doctor(home)["workers"]

    assert result.state is state
    assert re.fullmatch(detail, result.detail)


def test_no_worker_is_a_failure_in_production(postgresql_url: str) -> None:
    environ = {"APP_ENV": "production", "DATABASE_URL": postgresql_url}
    context = DoctorContext(build_container(environ))
    context.settings = context.container.settings
    with closing(open_ledger(postgresql_url)) as context.container.store:
        (result,) = run_checks(
            Check("workers", check.run, check.cure)
            for check in system_checks(context)
            if check.name == "workers"
        )

    assert result.state is State.FAILED
    assert result.detail == "worker-stopped: no worker runs: refunds wait"


def test_a_low_balance_is_a_warning(
    home: dict[str, str], fresh_anvil: DevChain
) -> None:
    """Before the first refund nothing is known of what one costs."""
    address, store = _address(home), _store(home)
    unknown = run_doctor(home)["local runway"]
    refund = ledger.queued(amount=10**12, token_address=fresh_anvil.token)
    paid = ledger.adopted(refund, 0)
    ledger.opened(store, sender=address)
    ledger.filled(store, [ledger.as_if(paid, status=Status.CONFIRMED)])
    low = run_doctor(home)["local runway"]

    assert (unknown.state, low.state) == (State.OK, State.WARNING)
    assert "TUSD: unknown before the first refund" in unknown.detail
    assert "coin: about " in low.detail
    assert low.cure == "top up: docs/how-to/incidents.md"


def test_a_missing_sealer_is_reported(home: dict[str, str]) -> None:
    context = DoctorContext(build_container(home))
    results = {result.name: result for result in run_checks(all_checks(context))}

    assert results["audit"].state is State.FAILED
    assert results["audit"].detail.startswith("audit-sealing-late")
    assert results["local mined"].state is State.WARNING


@pytest.mark.parametrize(
    ("age", "note", "detail"),
    [
        (timedelta(minutes=30), False, "signed as hotwallet: 0 records; "),
        (
            timedelta(hours=2),
            False,
            "audit-signing-late: no checkpoint covers the last",
        ),
        (timedelta(hours=2), True, "audit-chain-broken: audit record 1 differs"),
    ],
)
def test_missing_checkpoints_and_rewritten_chains_are_reported(
    home: dict[str, str], age: timedelta, note: bool, detail: str
) -> None:
    store = _store(home)
    store.migrate()
    store.append([record(at=ledger.now() - age)])
    seal(store)
    if note:
        key = CheckpointKey.load(Path(home["AUDIT_SIGNING_KEY_FILE"]))
        origin = "hotwallet/hotwallet"
        store.keep_checkpoint(checkpoint(chain(1), 1, key=key, origin=origin))

    result = run_doctor(home)["checkpoints"]

    assert result.detail.startswith(detail)
    assert result.state is (State.FAILED if detail.startswith("audit") else State.OK)


def test_a_checkpoint_by_another_key_is_a_warning(home: dict[str, str]) -> None:
    store = _store(home)
    store.migrate()
    store.append([record(at=ledger.now() - timedelta(hours=2))])
    seal(store)
    store.keep_checkpoint(checkpoint(store.sealed(0, 1), 1, at=ledger.now()))

    result = run_doctor(home)["checkpoints"]

    assert result.state is State.WARNING
    assert "not by this host's key" in result.detail


def test_forged_checkpoints_are_a_warning(home: dict[str, str]) -> None:
    """It names their sizes."""
    store = _store(home)
    store.migrate()
    store.keep_checkpoint(Checkpoint(2**62, "x"))

    result = run_doctor(home)["checkpoints"]

    assert result.state is State.WARNING
    assert f"1 forged checkpoints, of {2**62} records" in result.detail


@pytest.mark.parametrize(
    ("is_forged", "detail", "cure"),
    [
        (False, "not decided or not complete: test waiting", "hotwallet approvals"),
        (True, "another program changed 1 approvals", "alarms.md"),
    ],
)
def test_shows_what_waits_for_an_administrator(
    home: dict[str, str], *, is_forged: bool, detail: str, cure: str
) -> None:
    store = _store(home)
    store.migrate()
    approvals = Approvals(
        store, AuditLog(SILENCE, journal=store), Alerts(), utc_now, required=True
    )
    with (
        suppress(ApprovalRequiredError),
        approvals.authorize(Proposal("test", {}), Actor("token:alice")),
    ):
        pytest.fail("made without an approval")
    if is_forged:
        ledger.forge(store, "UPDATE approvals SET state = 'approved', version = 1")

    result = run_doctor(home)["approvals"]

    assert result.state is State.WARNING
    assert detail in result.detail
    assert cure in str(result.cure)


_THROTTLED = 'hotwallet_signature_throttled_share{backend="aws-kms"} 0.25'


def test_a_device_that_throttles_is_a_warning(home: dict[str, str]) -> None:
    """While a running worker says so: its own signature may well succeed."""
    with closing(open_ledger(home["DATABASE_URL"])) as store:
        store.migrate()
        store.record_pass(
            WorkerRow("a", store.now(), store.now(), measured(_THROTTLED))
        )
        store.record_pass(WorkerRow("b", store.now(), store.now()))
        found = run_doctor(home)["throttling"]

    assert (found.state, found.code) == (State.WARNING, "backend-throttled")
    assert found.detail == (
        "backend-throttled: aws-kms rejects 25 % of the workers' calls"
    )


def test_webhooks(home: dict[str, str], tmp_path: Path) -> None:
    """A webhook that fails is a warning, which names its tenant."""
    tenants = tmp_path / "tenants.toml"
    tenants.write_text(
        '[tenants.gateway]\nsubjects = ["gateway"]\n'
        '[tenants.gateway.webhook]\nurl = "https://gateway.example/"\n',
        encoding="utf-8",
    )
    environ = {**home, "TENANTS_FILE": str(tenants)}
    none = run_doctor(home)["webhooks"]
    with closing(open_ledger(home["DATABASE_URL"])) as store:
        ledger.accepted(store)
        store.sequence_events(9, utc_now(), lambda _: True)
        waiting = run_doctor(environ)["webhooks"]
        at, until = ledger.later(1), ledger.later(60)
        (due,) = store.claim_deliveries({"gateway": 1}, 1, at, until)
        failed = DeliveryAttempt(due.delivery, DeliveryState.DEAD, until, "status-500")
        store.record_attempts([failed], utc_now())
    dead = run_doctor(environ)["webhooks"]
    elsewhere = run_doctor(environ, SERVE_ROLE="refunds")["webhooks"]

    assert none.detail == "no tenant has a webhook"
    assert waiting.detail == "1 events wait, and none of them fails"
    assert dead.state is State.WARNING
    assert dead.detail == "webhook-failing: 'gateway': 0 events fail, 1 were given up"
    assert dead.code == "webhook-failing"
    assert elsewhere.detail == "this process sends no events"


def test_compares_the_limits(home: dict[str, str]) -> None:
    """With those of the last worker; a raise without an approval is a failure."""
    container = build_container(home)
    before = run_doctor(home)["limits"]
    record_start(container, "worker")
    equal = run_doctor(home)["limits"]
    raised = _with_network(home, 'max_amount = "1000"', 'max_amount = "5000"')
    free = run_doctor(raised)["limits"]
    refused = run_doctor(raised, REQUIRE_APPROVALS="true")["limits"]

    found = [each.state for each in (before, equal, free, refused)]
    assert found == [State.OK, State.OK, State.OK, State.FAILED]
    assert equal.detail == "those of the last worker, version 0"
    assert free.detail.endswith(".max_amount: 1000 -> 5000")
    assert refused.detail.startswith("limits-raised: ")
    assert refused.cure == "run: hotwallet limits show"


def test_reports_the_last_mined_transaction(
    home: dict[str, str], fresh_anvil: DevChain
) -> None:
    address = _address(home)
    fresh_anvil.rpc("anvil_impersonateAccount", address)
    receipt = fresh_anvil.rpc.transact({"from": address, "to": address, "value": "0x0"})

    result = run_doctor(home)["local mined"]

    assert result.state is State.OK
    block = int(receipt["blockNumber"], 16)
    assert result.detail == f"{receipt['transactionHash']} in block {block}"


def _doctor(
    environ: Mapping[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    program = "from api.extras.doctor.commands import doctor; doctor()"
    return run_python("-c", program, *arguments, environ=environ)


def test_the_command_with_nothing_configured(tmp_path: Path) -> None:
    """An empty environment is production: status 1, a cure each, and no traceback."""
    finished = _doctor({"HOTWALLET_HOME": str(tmp_path)}, "--json")

    document = json.loads(finished.stdout)
    states = {result["name"]: result["state"] for result in document["rungs"]}
    assert finished.returncode == 1
    assert document["ok"] is False
    assert states["settings"] == "ok"
    assert states["guard"] == "failed"
    assert states["signature"] == "skipped"
    assert "Traceback" not in finished.stdout + finished.stderr


def test_the_command_on_a_healthy_system(
    home: dict[str, str], softhsm_environ: dict[str, str]
) -> None:
    """The report is on standard output, and the log on standard error."""
    store = _store(home)
    store.migrate()
    with sealing(store):
        finished = _doctor({**home, **softhsm_environ})

    lines = finished.stdout.splitlines()
    assert finished.returncode == 0, finished.stdout
    assert {line.split()[0] for line in lines} == {"ok", "warning", "->"}
    assert '"event":"digest-sign-succeeded"' in finished.stderr


def test_the_screening_service_is_asked(home: dict[str, str], tmp_path: Path) -> None:
    """A service that does not answer as it should is a failure."""
    secret = tmp_path / "screening.secret"
    secret.write_text(Secret.generate().format())
    secret.chmod(0o600)
    given = {"SCREENING_SECRET_FILE": str(secret)}
    with screening_service(screened(allowed=False, address="0x" + "0" * 40)) as service:
        given["SCREENING_URL"] = service.url
        good = run_doctor(home, **given)["screening"]
        service.reply = (500, {}, b"")
        bad = run_doctor(home, **given)["screening"]
        unsigned = run_doctor(home, SCREENING_URL=service.url)["screening"]

    assert (good.state, good.detail) == (State.OK, "the service answers")
    assert (bad.state, unsigned.state) == (State.FAILED, State.FAILED)
    assert "status-500" in bad.detail
    assert "SCREENING_SECRET_FILE" in unsigned.detail
