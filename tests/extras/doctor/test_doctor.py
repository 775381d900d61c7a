"""``hotwallet doctor`` reports what is broken, and checks everything else."""

import json
import re
from collections.abc import Iterator
from contextlib import closing, suppress
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
from signer.errors import ApprovalRequiredError
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
    softhsm_key: KeyId,
    address: str,
    fresh_anvil: DevChain,
    tmp_path: Path,
) -> dict[str, str]:
    """The environment of a healthy system: token, anvil, a funded key, JWT keys."""
    coin.fund(fresh_anvil.url, address, token=fresh_anvil.token)
    # A service that another test started makes this key.
    Path(softhsm_environ["HOTWALLET_HOME"], "audit.pem").unlink(missing_ok=True)
    return {
        **softhsm_environ,
        **make_environ(tmp_path, fresh_anvil),
        "PKCS11_KEY_ID": softhsm_key,
    }


@pytest.fixture
def store(home: dict[str, str]) -> Iterator[SQLStore]:
    """The ledger of the healthy system, which is empty."""
    with closing(open_ledger(home["DATABASE_URL"])) as store:
        store.migrate()
        yield store


@pytest.fixture
def address(softhsm: PKCS11Backend, softhsm_key: KeyId) -> str:
    """The address of the healthy system's key."""
    return parse_public_key(softhsm.public_key(softhsm_key)).address


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
    "secrets": "ok",
    "approvals": "ok",
    "workers": "warning",  # None was started.
    "throttling": "ok",
    "limits": "ok",
    "webhooks": "ok",
    "shipping": "ok",
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


def test_a_vault_is_checked(
    home: dict[str, str], address: str, store: SQLStore, fresh_anvil: DevChain
) -> None:
    """Its rules, its tokens, and whether a revoked key may still pay."""
    vault = deploy_vault(
        fresh_anvil.url, fresh_anvil.token, caps=(5, 9), funds=0, operators=[address]
    )
    file = Path(home["NETWORKS_FILE"])
    write_networks(file, fresh_anvil.url, fresh_anvil.token, vault=vault.address)
    fine = run_doctor(home)
    coin.administer(
        vault.url, vault.token, "mint(address,uint256)", vault.address, 7 * 10**6
    )
    funded = run_doctor(home)["local TUSD"]
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


def test_the_command_on_a_healthy_system(home: dict[str, str], store: SQLStore) -> None:
    """
    The report is on standard output, and the log on standard error.

    With a device and a node, it loads only the libraries that it uses.
    """
    with sealing(store):
        finished = run_python("-c", RUN, "doctor", environ=home)

    assert finished.returncode == 0, finished.stdout
    lines = finished.stdout.splitlines()
    assert {line.split()[0] for line in lines} == {"ok", "warning", "->"}
    assert '"event":"digest-sign-succeeded"' in finished.stderr
    loaded = set(finished.stderr.rpartition("loaded:")[2].split())
    assert loaded <= {*DEVICE_READ, *NODES_READ, "jwt"}


@pytest.mark.parametrize(
    ("app_env", "role", "workers"),
    [
        ("test", State.WARNING, State.WARNING),
        ("production", State.FAILED, State.FAILED),
    ],
)
def test_what_only_production_refuses(
    postgresql_url: str, app_env: str, role: State, workers: State
) -> None:
    """A role that could change the audit, and that no worker runs."""
    environ = {"APP_ENV": app_env, "DATABASE_URL": postgresql_url}
    context = DoctorContext(build_container(environ))
    context.settings = context.container.settings
    with closing(open_ledger(postgresql_url)) as context.container.store:
        found = {
            each.name: each
            for each in run_checks(
                Check(check.name, check.run, check.cure)
                for check in system_checks(context)
                if check.name in {"role", "workers"}
            )
        }

    assert (found["role"].state, found["workers"].state) == (role, workers)
    assert "is a superuser" in found["role"].detail
    assert found["role"].cure is not None
    assert "no worker runs: refunds wait" in found["workers"].detail


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
            "secrets",
            "approvals",
            "workers",
            "throttling",
            "limits",
            "webhooks",
            "shipping",
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
            "secrets",
            "approvals",
            "workers",
            "throttling",
            "limits",
            "webhooks",
            "shipping",
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
    if "DATABASE_URL" in changed:
        assert results["database"].code == "database-unreachable"


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
    if CANARY in new:
        assert first.code == "quorum-lost"
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


def test_a_wallet_without_gas_and_with_code_of_others(
    home: dict[str, str], address: str, fresh_anvil: DevChain
) -> None:
    """T7: a delegation has the name of its alert, and what to do."""
    fresh_anvil.rpc("anvil_setBalance", address, "0x0")
    fresh_anvil.rpc("anvil_setCode", address, f"0xef0100{'11' * 20}")

    results = run_doctor(home)

    gas, delegation = results["local gas"], results["local delegation"]
    assert gas.state is State.FAILED
    assert gas.detail.startswith("insufficient-funds")
    assert gas.cure == "send funds to the address"
    assert (delegation.state, delegation.code) == (State.WARNING, "wallet-delegated")
    assert "key-compromise" in str(delegation.cure)


def _propose(store: SQLStore) -> None:
    """Let an administrator ask for a change that needs an approval."""
    approvals = Approvals(
        store, AuditLog(SILENCE, journal=store), Alerts(), utc_now, required=True
    )
    with (
        suppress(ApprovalRequiredError),
        approvals.authorize(Proposal("test", {}), Actor("token:alice")),
    ):
        pytest.fail("made without an approval")


def test_what_waits_while_a_worker_runs(home: dict[str, str], store: SQLStore) -> None:
    """What the worker measured, a stop, a forged checkpoint and a proposal."""
    now = store.now()
    text = (
        'hotwallet_network_head_age_seconds{network="local"} 301\n'
        'hotwallet_signature_throttled_share{backend="aws-kms"} 0.25\n'
    )
    store.record_pass(WorkerRow("a", now, now, measured(text)))
    ledger.stopped(store)
    store.keep_checkpoint(Checkpoint(2**62, "x"))
    _propose(store)

    found = run_doctor(home)

    assert found["workers"].state is State.OK
    assert re.fullmatch(r"worker a completed a pass \d+ s ago", found["workers"].detail)
    worker, throttling = found["local worker"], found["throttling"]
    assert (worker.state, worker.code) == (State.WARNING, "chain-stalled")
    assert (throttling.state, throttling.code) == (State.WARNING, "backend-throttled")
    assert throttling.detail == (
        "backend-throttled: aws-kms rejects 25 % of the workers' calls"
    )
    assert found["local nonces"].state is State.FAILED
    assert "hotwallet resume" in found["local nonces"].detail
    assert found["checkpoints"].state is State.WARNING
    assert f"1 forged checkpoints, of {2**62} records" in found["checkpoints"].detail
    assert found["approvals"].state is State.WARNING
    assert "not decided or not complete: test waiting" in found["approvals"].detail
    assert "hotwallet approvals" in str(found["approvals"].cure)


def test_what_waits_while_no_worker_runs(
    home: dict[str, str], address: str, store: SQLStore
) -> None:
    """An overdue refund, a pause, and a proposal that another program changed."""
    at = utc_now() - timedelta(seconds=60)
    store.record_pass(WorkerRow("a", at, at))
    ledger.opened(store, sender=address)
    refund = ledger.reserved(store, ledger.accepted(store), sender=address)
    save(store, refund, ledger.delay(refund, ledger.later(-61)))
    wallet = store.wallet(31337, address)
    assert wallet is not None
    store.pause(wallet, Pause.FOREIGN_TRANSACTION, ledger.now())
    _propose(store)
    ledger.forge(store, "UPDATE approvals SET state = 'approved', version = 1")

    found = run_doctor(home)

    detail = r"worker-stopped: worker a completed a pass \d+ s ago"
    assert found["workers"].state is State.FAILED
    assert re.fullmatch(detail, found["workers"].detail)
    assert found["local worker"].state is State.FAILED
    assert refund.id in found["local worker"].detail
    paused = f"wallet-paused: {address} is paused: foreign-transaction"
    assert found["local nonces"].detail == paused
    assert str(found["local nonces"].cure).startswith("run: hotwallet nonce repair")
    assert found["approvals"].state is State.WARNING
    assert "another program changed 1 approvals" in found["approvals"].detail
    assert "alarms.md" in str(found["approvals"].cure)


def test_a_refund_that_is_due_soon(
    home: dict[str, str], address: str, store: SQLStore
) -> None:
    """Half a minute shows nothing about the worker."""
    ledger.opened(store, sender=address)
    refund = ledger.reserved(store, ledger.accepted(store), sender=address)
    save(store, refund, ledger.delay(refund, ledger.later(-30)))

    result = run_doctor(home)["local worker"]

    assert result.state is State.OK
    assert refund.id not in result.detail


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
    store: SQLStore,
    status: Status,
    age: int,
    blocked_by: str | None,
    code: str | None,
) -> None:
    """Whatever it waits for: "0 open refunds" would be wrong."""
    since = ledger.now() - timedelta(seconds=age)
    waiting = ledger.queued(status=status, updated_at=since, blocked_by=blocked_by)
    ledger.filled(store, [waiting])

    result = run_doctor(home)["local worker"]

    assert "1 open refunds" in result.detail
    assert result.code == code
    assert (result.state is State.FAILED) == (code is not None)
    assert ("(limit-reached)" in result.detail) == (blocked_by is not None)


def test_a_low_balance_is_a_warning(
    home: dict[str, str], address: str, store: SQLStore, fresh_anvil: DevChain
) -> None:
    """Before the first refund nothing is known of what one costs."""
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
    home: dict[str, str], store: SQLStore, age: timedelta, note: bool, detail: str
) -> None:
    store.append([record(at=ledger.now() - age)])
    seal(store)
    if note:
        key = CheckpointKey.load(Path(home["AUDIT_SIGNING_KEY_FILE"]))
        origin = "hotwallet/hotwallet"
        store.keep_checkpoint(checkpoint(chain(1), 1, key=key, origin=origin))

    result = run_doctor(home)["checkpoints"]

    assert result.detail.startswith(detail)
    assert result.state is (State.FAILED if detail.startswith("audit") else State.OK)


def test_a_checkpoint_by_another_key_is_a_warning(
    home: dict[str, str], store: SQLStore
) -> None:
    store.append([record(at=ledger.now() - timedelta(hours=2))])
    seal(store)
    store.keep_checkpoint(checkpoint(store.sealed(0, 1), 1, at=ledger.now()))

    result = run_doctor(home)["checkpoints"]

    assert result.state is State.WARNING
    assert "not by this host's key" in result.detail


def test_webhooks(home: dict[str, str], store: SQLStore, tmp_path: Path) -> None:
    """A webhook that fails is a warning, which names its tenant."""
    tenants = tmp_path / "tenants.toml"
    tenants.write_text(
        '[tenants.gateway]\nsubjects = ["gateway"]\n'
        '[tenants.gateway.webhook]\nurl = "https://gateway.example/"\n',
        encoding="utf-8",
    )
    environ = {**home, "TENANTS_FILE": str(tenants)}
    none = run_doctor(home)["webhooks"]
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
    home: dict[str, str], address: str, fresh_anvil: DevChain
) -> None:
    fresh_anvil.rpc("anvil_impersonateAccount", address)
    receipt = fresh_anvil.rpc.transact({"from": address, "to": address, "value": "0x0"})

    result = run_doctor(home)["local mined"]

    assert result.state is State.OK
    block = int(receipt["blockNumber"], 16)
    assert result.detail == f"{receipt['transactionHash']} in block {block}"


def test_the_command_with_nothing_configured(tmp_path: Path) -> None:
    """An empty environment is production: status 1, a cure each, and no traceback."""
    program = "from api.extras.doctor.commands import doctor; doctor()"
    environ = {"HOTWALLET_HOME": str(tmp_path)}
    finished = run_python("-c", program, "--json", environ=environ)

    document = json.loads(finished.stdout)
    states = {result["name"]: result["state"] for result in document["rungs"]}
    assert finished.returncode == 1
    assert document["ok"] is False
    assert states["settings"] == "ok"
    assert states["guard"] == "failed"
    assert states["signature"] == "skipped"
    assert "Traceback" not in finished.stdout + finished.stderr


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
