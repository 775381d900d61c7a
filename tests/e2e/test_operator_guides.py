"""Guides of operators and auditors: their commands run, and print what is shown."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from eth_account import Account
from moto.core.models import DEFAULT_ACCOUNT_ID

from api.auth.dev_tokens import mint
from dev import stablecoin
from dev.anvil import ROOT
from dev.chain import CHAIN_ID
from dev.kms_emulator import KMSEmulator
from dev.rpc import RPC
from dev.stack import Stack, exports, request, running_stack
from signer.config.settings import Settings
from signer.redact import key_prefix
from tests.e2e.conftest import chain_options
from tests.e2e.console import Console, Guide
from tests.e2e.gateway import RECIPIENT, Gateway
from tests.extras.drills.people import Act
from tests.extras.drills.playing import Staging
from tests.fixtures.chain import ON_GETH
from tests.fixtures.geth import Geth
from tests.support.cloudtrail import sign_event, trail_file
from tests.support.forked_processes import ForkedHotWallet, command_for_shells
from tests.support.servers import LocalHandler, LocalServer
from tests.support.waiting import eventually


GUIDES = ROOT / "docs" / "how-to"
AWS = "needs an account of AWS"
HOST = "needs systemd, and changes the host"
DAYS = "a delivery is given up after three days"

_ADDRESS = re.compile("0x[0-9a-fA-F]{40}")

# What a program with the old key has sent, before the service has it.
_HISTORY = """
import sys
from dev.rpc import RPC
from softhsm.account import open_account

account, rpc = open_account(), RPC(sys.argv[1])
for nonce in range(3):
    signed = account.sign_transaction(
        {
            **{"to": account.address, "value": 1, "gas": 21_000, "nonce": nonce},
            **{"maxFeePerGas": 3 * 10**9, "maxPriorityFeePerGas": 10**9},
            **{"chainId": 31337, "type": 2},
        }
    )
    rpc("eth_sendRawTransaction", "0x" + bytes(signed.raw_transaction).hex())
"""


@pytest.fixture(scope="module", params=["anvil", ON_GETH])
def stack(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    kms_emulator: KMSEmulator,
) -> Iterator[Stack]:
    """
    A stack with the API of AWS KMS, on each chain in turn.

    Its tenant "developer" has a webhook, and "gateway" has none.
    """
    home = tmp_path_factory.mktemp("guides") / ".hotwallet" / "dev"
    with running_stack(
        home,
        kms=kms_emulator,
        has_webhook=True,
        edit_networks=lambda text: f'{text}approve_above = "200"\n',
        settings={
            "KMS_ALLOWED_KEYS": f"arn:aws:kms:*:{DEFAULT_ACCOUNT_ID}:key/*",
            "KMS_TIMEOUT_MS": "8000",  # The emulator is a thread of a busy process.
        },
        program=ForkedHotWallet(),
        **chain_options(request.param),
    ) as running:
        yield running


@pytest.fixture
def console(stack: Stack, tmp_path: Path) -> Iterator[Console]:
    with _shell(stack, tmp_path) as shell:
        yield shell


@contextmanager
def _shell(stack: Stack, folder: Path) -> Iterator[Console]:
    shell = Console(folder, {})
    with command_for_shells() as commands:
        try:
            shell.run(exports(stack.environ))
            shell.run(f"PATH={commands}:$PATH")
            yield shell
        finally:
            shell.close()


def test_a_key_is_rotated_and_rotated_back(
    stack: Stack, kms_emulator: KMSEmulator, console: Console
) -> None:
    """*Rotate a key*, from the rehearsal to the sweep and back."""
    old_id, old = stack.key_id, stack.address
    new_id = kms_emulator.create_key()
    console.run(f"TOKEN={_token(stack, 'alice', 'keys:rotate')}")
    guide = Guide(
        console,
        GUIDES / "rotation.md",
        left_out={"aws ": AWS, "for key in $(aws ": AWS},
        texts={
            "1234abcd-12ab-34cd-56ef-1234567890ab --from": f"{new_id} --yes --from",
            "98765432-12ab-34cd-56ef-1234567890ab --from": f"{old_id} --yes --from",
            "1234abcd-12ab-34cd-56ef-1234567890ab": new_id,
            "1234abcd...": key_prefix(new_id),
            "98765432...": key_prefix(old_id),
            "https://wallet.example.com": stack.url,
        },
    )

    guide.follow("hotwallet keys rotate 1234abcd")
    guide.follow("hotwallet keys rotate 1234abcd")
    guide.follow("curl")
    new = kms_emulator.address(new_id)
    assert eventually(lambda: _active(stack) == new)
    guide.follow("hotwallet keys sweep", repeat=True)
    guide.follow("hotwallet keys sweep")
    sweep = f"keys sweep {old} --yes"
    assert eventually(
        lambda: "nothing is left there" in _run(stack, sweep), 60, pause=1
    )
    guide.follow("hotwallet keys rotate 98765432")

    assert eventually(lambda: _active(stack) == old)
    assert guide.unused() == []
    stablecoin.fund(stack.chain_url, old, token=stack.token)


def test_a_compromised_key_is_revoked(
    stack: Stack, kms_emulator: KMSEmulator, console: Console
) -> None:
    """
    *Respond to a compromised key*, with a refund of the revoked key.

    A transaction of the intruder waits in the node's pool, and pauses the wallet.
    """
    new_id = kms_emulator.create_key()
    old_id, old = stack.key_id, stack.address
    new = kms_emulator.address(new_id)
    stablecoin.fund(stack.chain_url, new, token=stack.token)
    guide = Guide(
        console,
        GUIDES / "key-compromise.md",
        left_out={
            "aws ": AWS,
            "gcloud ": "needs a project of Google Cloud",
            "hotwallet audit": "is compared in verify-an-export.md",
            "hotwallet stop": "is played by the drill",
            "hotwallet resume": "is played by the drill",
        },
        texts={
            '"$NEW_KEY_ID"': f"{new_id} --yes",
            '"$OLD_ADDRESS"': old,
            "hotwallet keys list": "hotwallet keys list | head -2",
            "nonce abandon COMPROMISED_ADDRESS": f"nonce abandon {old} --yes",
            "COMPROMISED_ADDRESS": old,
            "0xf46A67d11981675043Ba93976F6081753cA5347B": old,
            "1234abcd...": key_prefix(new_id),
            "98765432...": key_prefix(old_id),
        },
    )
    stack.chain.mine_every(0)
    try:
        refund = _pay(stack, "stranded")
        _await(stack, refund, "broadcast")
        sent = _send_as_intruder(stack, kms_emulator)
        _pay(stack, "paused")
        repair = "hotwallet nonce repair --dry-run"
        assert eventually(lambda: "paused" in console.run(repair), pause=1)

        guide.follow("hotwallet keys rotate")
        stack.key_id, stack.address = new_id, new
        guide.follow("hotwallet keys list")
        guide.follow("hotwallet keys reinstate")
        guide.follow("hotwallet nonce abandon")
        _drop(stack, sent)  # The books stay right.
    finally:
        stack.chain.mine_every(1)

    assert guide.unused() == []


def _send_as_intruder(stack: Stack, kms: KMSEmulator) -> str:
    """Send a transaction with the nonce after those in the pool; return its hash."""
    rpc = RPC(stack.chain_url)
    nonce = int(rpc("eth_getTransactionCount", stack.address, "pending"), 16)
    signed = Account.sign_transaction(
        {
            "to": stack.address,
            "value": 1,
            "gas": 21_000,
            "maxFeePerGas": 3 * 10**9,
            "maxPriorityFeePerGas": 10**9,
            "nonce": nonce,
            "chainId": CHAIN_ID,
            "type": 2,
        },
        kms.steal(stack.key_id).to_bytes(32, "big"),
    )
    return str(rpc("eth_sendRawTransaction", signed.raw_transaction.to_0x_hex()))


def _drop(stack: Stack, transaction: str) -> None:
    """Remove *transaction* from the node's pool; geth forgets the others as well."""
    if isinstance(stack.chain, Geth):
        stack.chain.stop()
        stack.chain.start()
    else:
        RPC(stack.chain_url)("anvil_dropTransaction", transaction)


def test_a_key_fails_over_to_its_replica(
    stack: Stack, kms_emulator: KMSEmulator, console: Console, tmp_path: Path
) -> None:
    """
    *Deploy*: the key signs in another region, as the drill shows.

    It finds a key that signs on, a replica that does not, and a command without effect.
    """
    key_id = kms_emulator.create_key(multi_region=True)
    address = kms_emulator.address(key_id)
    stablecoin.fund(stack.chain_url, address, token=stack.token)
    stack.command("keys", "rotate", key_id, "--yes")
    replica = kms_emulator.replicate(key_id, "eu-west-1")
    guide = Guide(
        console,
        GUIDES / "deploy.md",
        left_out={
            "aws ": AWS,
            "apt-get": HOST,
            "make image": HOST,
            'hotwallet keys failover "$': "is played by the drill",
        },
        texts={
            "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
            "": replica,
            "mrk-1234...": key_prefix(key_id),
        },
    )
    people: dict[str, Act] = dict.fromkeys(
        ("one-database", "fail-region", "other-keys", "start-hosts", "region-is-back"),
        lambda _: None,
    )
    drill = Staging(stack, tmp_path, "failover", people, {"REPLICA": replica})

    try:
        guide.follow("hotwallet keys failover")
        assert guide.unused() == []

        drill.require_failure("fail-region", patience=15)
        people["fail-region"] = lambda _: kms_emulator.set_state(key_id, "Disabled")
        kms_emulator.set_state(replica, "Disabled")
        drill.require_failure("fail-over")
        kms_emulator.set_state(replica, "Enabled")
        drill.false = ("keys*failover*", "exit 0")
        drill.require_failure("fail-over", patience=2)
        drill.false = None
        ran = drill.play()
        assert ran.returncode == 0, ran.stdout + ran.stderr
        drill.require_recorded("succeeded")
    finally:  # The other tests pay with the key that has funds.
        stack.command("keys", "rotate", stack.key_id, "--yes")


def test_webhooks_are_received_and_repaired(stack: Stack, console: Console) -> None:
    """*Webhooks*: a receiver that listens, and one that fails."""
    (url,) = re.findall('url = "([^"]*)"', _tenants(stack))
    guide = Guide(
        console,
        GUIDES / "webhooks.md",
        left_out={"hotwallet webhooks list --dead": DAYS},
        texts={
            "replay evt_01a213dfe137369f1705e17df74f2045": "replay $EVENT",
            "hotwallet listen": "cat events.txt",
            "http://127.0.0.1:4242/": url,
            "shop": "developer",
        },
    )
    guide.follow("hotwallet webhooks key")
    console.run("hotwallet listen > events.txt 2>&1 &")
    assert eventually(lambda: "listening" in console.run("cat events.txt"))
    guide.follow("hotwallet webhooks test")
    console.run("kill $!; wait; hotwallet listen > events.txt 2>&1 &")
    assert eventually(lambda: "listening" in console.run("cat events.txt"))
    _pay(stack, "webhook", subject="developer", amount="12.5")
    guide.follow("hotwallet listen", repeat=True)
    console.run("kill $!; wait")

    with LocalServer(_Failing, urlsplit(url).port or 0):
        _pay(stack, "webhook-fails", subject="developer")
        guide.follow("hotwallet webhooks list --pending", repeat=True)
        console.run(
            "EVENT=$(hotwallet webhooks list --pending | grep -o -m1 'evt_[^ ]*')"
        )
        guide.follow("hotwallet webhooks replay evt")
        guide.follow("hotwallet webhooks replay-dead")

    assert guide.unused() == []


def test_a_policy_is_compared_and_tested(
    stack: Stack, console: Console, tmp_path: Path
) -> None:
    """*Write a policy*: the page's first rule and its example."""
    page = GUIDES / "policy.md"
    text = page.read_text(encoding="utf-8")
    refund = _pay(stack, "policy")
    _await(stack, refund)
    (rule, *_) = re.findall(
        r"^ *```cedar\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL
    )
    (example,) = re.findall(
        r"^```toml\n(\[defaults\].*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    (tmp_path / "new-policy").mkdir()
    (tmp_path / "new-policy" / "own.cedar").write_text(
        rule.replace(RECIPIENT, "0x" + "00" * 19 + "ff"), encoding="utf-8"
    )
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "examples.toml").write_text(
        example.replace("137", "31337").replace(
            "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", stack.token
        ),
        encoding="utf-8",
    )
    guide = Guide(
        console,
        page,
        left_out={"POLICY_DIR=new-policy OPERATOR": "is compared in approvals.md"},
        texts={"rf_01a20d6d5a00307fbb283d85c3000672": refund},
    )

    guide.follow("hotwallet config check")
    guide.follow("hotwallet policy diff")
    guide.follow("hotwallet policy test")
    guide.follow("hotwallet policy explain")
    guide.follow("hotwallet policy show")

    assert guide.unused() == []


def test_the_books_are_compared_and_exported(stack: Stack, console: Console) -> None:
    """*Compare the books with the chain*, for yesterday, today and two periods."""
    refund = _pay(stack, "books")
    _await(stack, refund)
    blocks = RPC(stack.chain_url)
    until = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    last = int(blocks("eth_blockNumber"), 16)
    assert eventually(lambda: int(blocks("eth_blockNumber"), 16) > last + 6)
    guide = Guide(
        console,
        GUIDES / "reconcile.md",
        left_out={"cp deploy/systemd": HOST, "systemctl": HOST},
        texts={
            "--from yesterday --to today": "--from yesterday --to now",
            "--from 2026-01-01 --to 2026-02-01": "--from yesterday --to now",
            "--from 2026-01-01 --to 2026-01-02": f"--from yesterday --to {until}",
            "--from 2026-01-02 --to 2026-01-03": f"--from {until} --to now",
        },
    )

    guide.follow("hotwallet reconcile")
    guide.follow("hotwallet reconcile")
    guide.follow("hotwallet reconcile")
    guide.follow("hotwallet refund export")

    assert guide.unused() == []


@pytest.mark.needs("jq")
def test_an_auditor_verifies_an_export(
    stack: Stack, kms_emulator: KMSEmulator, console: Console, tmp_path: Path
) -> None:
    """*Verify an export*, with the files that the page asks for and nothing else."""
    refund, large = _pay(stack, "audited"), _pay(stack, "approved", amount="450")
    approve = f"approvals approve {_waiting(stack)} --reason x --yes"
    assert "approved" in _as(stack, "carol", approve)
    _await(stack, refund)
    _await(stack, large)
    console.run(
        "openssl pkey -in $HOTWALLET_HOME/audit.pem -pubout -out audit.pub.pem;"
        " hotwallet audit checkpoint --new > kept.txt;"
        " hotwallet audit export --out audit.jsonl"
    )
    signed_at = (tmp_path / "kept.txt").read_text(encoding="utf-8").splitlines()[4]
    _write_trail(tmp_path, kms_emulator)
    console.run("for name in $(compgen -e | grep -v PATH); do unset $name; done")
    guide = Guide(
        console,
        GUIDES / "verify-an-export.md",
        left_out={"hotwallet vault": "is run in test_vault.py"},
        texts={
            "rf_01a213dfe137369f1705e17df74f2045": refund,
            "rf_01a20d6d5a00307fbb283d85c3000672": large,
            "shop-gateway": "gateway",
            "2026-11-01 --to 2026-12-01": f"yesterday --to {signed_at}",
        },
    )

    for command in ("hotwallet audit verify", "sed", "hotwallet audit verify"):
        guide.follow(command)
    guide.follow("hotwallet audit configurations")
    for command in ("grep", "grep", "DIGEST=", "grep"):
        guide.follow(command)
    guide.follow("hotwallet audit reconcile")
    guide.follow("hotwallet audit report")
    guide.follow("hotwallet audit verify-report")

    assert guide.unused() == []


def _write_trail(folder: Path, kms: KMSEmulator) -> None:
    """Write the events of the emulator, at the times of the exported records."""
    at = {}
    for line in (folder / "audit.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line).get("record", {})
        for each in record.get("device_request_ids", []):
            at[each] = datetime.fromisoformat(record["timestamp"])
    events = [
        sign_event(each.request_id, at[each.request_id], arn=each.key_id)
        for each in tuple(kms.trail)
        if each.request_id in at
    ]
    trail_file(folder / "trail" / "events.json.gz", events)


@pytest.mark.parametrize("chain", ["anvil", ON_GETH])
def test_changes_are_approved(chain: str, tmp_path: Path) -> None:
    """
    *Approve a change* and *Migrate to hotwallet*, with the same key.

    Three transactions of the key are older than the service.
    """
    home = tmp_path / ".hotwallet" / "dev"

    def networks(text: str) -> str:
        (url,) = re.findall('"(http:[^"]*)"', text)
        _run_as_owner(home, _HISTORY, url)
        return f'{text}approve_above = "200"\n'

    with (
        running_stack(
            home,
            has_webhook=True,
            edit_networks=networks,
            settings={"REQUIRE_APPROVALS": "true"},
            program=ForkedHotWallet(),
            **chain_options(chain),
        ) as stack,
        _shell(stack, tmp_path) as console,
    ):
        _follow_authentication(stack, console)
        _follow_approvals(stack, console, tmp_path)
        _follow_migration(stack, console)


def _run_as_owner(home: Path, program: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={
            "HOTWALLET_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "PATH": str(Path(sys.executable).parent),
        },
        cwd=home,
        check=True,
        capture_output=True,
    )


def _follow_authentication(stack: Stack, console: Console) -> None:
    guide = Guide(
        console,
        ROOT / "docs" / "reference" / "auth.md",
        texts={"curl -H": "curl -s -H", "http://127.0.0.1:8080": stack.url},
    )

    guide.follow("curl")

    assert guide.unused() == []


def _follow_approvals(stack: Stack, console: Console, folder: Path) -> None:
    raised = stack.home / "networks.new.toml"
    networks = (stack.home / "networks.toml").read_text(encoding="utf-8")
    raised.write_text(
        networks.replace('max_amount = "1000"', 'max_amount = "5000"'), encoding="utf-8"
    )
    guide = Guide(
        console,
        GUIDES / "approvals.md",
        texts={
            "/etc/hotwallet/networks.new.toml": str(raised),
            "/run/operator/token": "alice",
            'bob is on a plane"': 'bob is on a plane" --yes',
            "cli:bob": f"cli:{console.run('id -un')}",
            "polygon": "local",
            "USDC": "TUSD",
            '"shop"': '"gateway"',
            "shop-gateway": "gateway",
        },
    )

    _as(stack, "bob", 'stop --network local --reason "too many refunds at once"')
    _as(stack, "alice", 'resume --network local --reason "the rule was too strict"')
    guide.follow("hotwallet approvals list")
    digest = _waiting(stack)
    assert "approved" in _as(
        stack, "carol", f"approvals approve {digest} --reason x --yes"
    )
    _as(stack, "alice", 'resume --network local --reason "the rule was too strict"')

    _pay(stack, "ps_2931", amount="450")
    guide.follow("hotwallet approvals list")
    assert "rejected" in _as(
        stack, "carol", f"approvals reject {_waiting(stack)} --reason x --yes"
    )

    guide.follow("export NETWORKS_FILE")
    guide.follow("hotwallet limits show")
    _write_token(stack, folder)
    guide.follow("OPERATOR_TOKEN_FILE=/run/operator/token hotwallet limits")
    _as(stack, "carol", f"approvals reject {_waiting(stack)} --reason x --yes")

    _as(stack, "bob", 'stop --reason "a test"')
    _as(stack, "alice", "resume --reason x")
    _as(stack, "carol", f"approvals approve {_waiting(stack)} --reason x --yes")
    _write_token(stack, folder)
    guide.follow("OPERATOR_TOKEN_FILE=/run/operator/token hotwallet resume")

    _as(stack, "bob", 'stop --reason "a test"')
    _as(stack, "alice", "resume --reason x")
    guide.texts["44c5c71365a8ef49"] = _waiting(stack)
    guide.follow("hotwallet approvals break-glass")
    _as(stack, "alice", "resume --reason x")

    assert guide.unused() == []


def _follow_migration(stack: Stack, console: Console) -> None:
    _pay(stack, "first")
    console.run(f"NODE={stack.chain_url} OLD={stack.address}")
    guide = Guide(console, GUIDES / "migrate.md")

    guide.follow("for block in latest pending")
    guide.follow("hotwallet nonce repair", repeat=True)

    assert guide.unused() == []


def _as(stack: Stack, person: str, command: str) -> str:
    """Run *command* of ``hotwallet`` with a token of *person*; return its output."""
    token = _write_token(stack, stack.home, person)
    return _run(stack, command, OPERATOR_TOKEN_FILE=str(token))


def _run(stack: Stack, command: str, **environ: str) -> str:
    """Run *command* of ``hotwallet``; return its output, whatever its status."""
    arguments = shlex.split(command)
    finished = stack.program.run(arguments, {**stack.environ, **environ})
    return finished.stdout + finished.stderr


def _write_token(stack: Stack, folder: Path, person: str = "alice") -> Path:
    """Write a file with a fresh token, which one command uses up."""
    scopes = ("signing:stop", "approvals:decide", "limits:raise")
    path = folder / person
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(_token(stack, person, *scopes), encoding="utf-8")
    return path


def _token(stack: Stack, subject: str, *scopes: str) -> str:
    """Return a token of an administrator with *scopes*."""
    settings = Settings.from_env(stack.environ)
    return mint(settings, subject=subject, roles=["admin"], scopes=scopes)


def _waiting(stack: Stack) -> str:
    """Return the start of the digest of the only proposal that waits."""
    listed = _run(stack, "approvals list")
    (digest,) = re.findall("^([0-9a-f]{16}) waiting", listed, re.MULTILINE)
    return str(digest)


def _active(stack: Stack) -> str:
    """Return the address of the active key."""
    _, _, ready = request("GET", f"{stack.url}/readyz")
    return str(ready["address"])


def _tenants(stack: Stack) -> str:
    return Path(stack.environ["TENANTS_FILE"]).read_text(encoding="utf-8")


def _pay(
    stack: Stack, name: str, *, subject: str = "gateway", amount: str = "5"
) -> str:
    """Request a refund; return its id."""
    gateway = Gateway.of(stack, subject)
    status, _, refund = gateway.post(name, payment_session_id=name, amount=amount)
    assert status == 201, refund
    return str(refund["id"])


def _await(stack: Stack, refund: str, status: str = "confirmed") -> None:
    """Wait until a refund has *status*."""
    Gateway.of(stack, "gateway").wait(refund, status)


class _Failing(LocalHandler):
    def respond(self) -> None:
        """Refuse an event."""
        self.read_body()
        self.answer(503)
