"""The stack of real processes pays refunds, and shows no secrets."""

import json
import os
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench.processes import children
from dev import stablecoin
from dev.stack import Stack
from tests.e2e.gateway import RECIPIENT, Gateway
from tests.support.programs import ROOT, run_python


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> Gateway:
    return Gateway(stack)


def _events(home: Path, event: str, process: str = "*") -> list[dict[str, Any]]:
    logs = [log.read_text(encoding="utf-8") for log in home.glob(f"{process}.log")]
    lines = [line for log in logs for line in log.splitlines()]
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [found for found in events if found["event"] == event]


def test_pays_a_refund(stack: Stack, gateway: Gateway) -> None:
    before = stablecoin.balance_of(stack.chain_url, stack.token, RECIPIENT)

    status, headers, refund = gateway.post(amount="12.50")
    confirmed = gateway.wait(refund["id"], "confirmed")

    after = stablecoin.balance_of(stack.chain_url, stack.token, RECIPIENT)
    assert status == 201
    assert f"/v1/refunds/{refund['id']}" == headers["location"]
    assert refund["tx_hash"] == confirmed["tx_hash"]
    assert stack.address == confirmed["sender"]
    assert after - before == 12_500_000


def test_pays_a_repeated_request_once(stack: Stack, gateway: Gateway) -> None:
    """R1: twenty equal concurrent requests pay one refund and get the same one."""
    before = stablecoin.balance_of(stack.chain_url, stack.token, RECIPIENT)
    key, session = secrets.token_hex(8), f"ps_{secrets.token_hex(8)}"

    with ThreadPoolExecutor(20) as pool:
        answers = list(
            pool.map(
                lambda _: gateway.post(key, payment_session_id=session),
                range(20),
            )
        )
    (first,) = {body["id"] for _, _, body in answers}
    gateway.wait(first, "confirmed")

    after = stablecoin.balance_of(stack.chain_url, stack.token, RECIPIENT)
    assert sorted(status for status, _, _ in answers) == [200] * 19 + [201]
    assert after - before == 1_250_000


def test_only_the_worker_signs_refunds(stack: Stack, gateway: Gateway) -> None:
    """Sixteen clients request 80 refunds; each is paid with a nonce of its own."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: gateway.post(), range(80)))
        ids = [body["id"] for _, _, body in answers]
        paid = list(pool.map(lambda each: gateway.wait(each, "confirmed"), ids))
    signed = [e for e in _events(stack.home, "digest-sign-succeeded") if e["refund_id"]]

    assert {201} == {status for status, _, _ in answers}
    assert len({refund["nonce"] for refund in paid}) == 80
    assert {event["pid"] for event in signed} == {
        each["pid"] for each in _events(stack.home, "configuration-loaded", "worker")
    }
    assert {("success", "worker")} == {(e["outcome"], e["actor"]) for e in signed}


def test_signatures_name_a_recorded_configuration(
    stack: Stack, gateway: Gateway
) -> None:
    """Each process records its start, with the hash that its signatures have (A18)."""
    refund = gateway.post()[2]
    gateway.wait(refund["id"], "confirmed")
    started = _events(stack.home, "configuration-loaded")
    signed = [e for e in _events(stack.home, "digest-sign-succeeded") if e["refund_id"]]

    (short,) = {each["details"]["hash"][:16] for each in started}
    assert {each["actor"] for each in started} >= {"api", "worker"}
    assert {each["configuration"] for each in signed} == {short}


def test_a_refused_request_may_be_repeated(stack: Stack, gateway: Gateway) -> None:
    session = f"ps_{secrets.token_hex(8)}"

    status, headers, problem = gateway.post(
        payment_session_id=session, amount="1000.01"
    )
    again, _, _ = gateway.post(payment_session_id=session, amount="1000")

    assert (
        status,
        problem["code"],
        problem["rule"],
    ) == (422, "policy-violation", "max-amount")
    assert headers["content-type"] == "application/problem+json"
    assert again == 201


def test_no_secret_is_visible(stack: Stack, gateway: Gateway) -> None:
    """No log, command line or environment of a child has one."""
    secret = [
        (stack.home / "softhsm" / "pin").read_text(encoding="utf-8").strip(),
        (stack.home / "softhsm" / "so-pin").read_text(encoding="utf-8").strip(),
        gateway.token,
        (stack.home / "jwt.pem").read_text(encoding="utf-8").splitlines()[1],
    ]
    shown = [log.read_text(encoding="utf-8") for log in stack.logs().values()]
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                content = (process / name).read_bytes()
            except OSError:
                continue
            if process.name != str(os.getpid()):
                shown.append(content.decode(errors="replace"))

    assert all(secret)
    assert not [text for text in shown for word in secret if word in text]


def test_ps_shows_the_name_and_the_role(stack: Stack) -> None:
    """And nothing of the command line that was typed."""
    titles = {name: _title(stack.processes[name].pid) for name in ("serve", "worker")}
    forks = {_title(pid) for pid in children(stack.processes["serve"].pid)}

    assert titles == {
        "serve": "gunicorn: master [hotwallet serve all]",
        "worker": "hotwallet worker",
    }
    assert forks == {"gunicorn: worker [hotwallet serve all]"}


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").rstrip("\0 ")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"NETWORKS_FILE": "wrong.toml"}, "chain-misconfigured"),
        ({"WALLET_ADDRESS": "0x" + "11" * 20}, "key-not-in-ring"),
    ],
)
def test_the_guard_refuses_what_only_node_or_ledger_show(
    stack: Stack, tmp_path: Path, change: dict[str, str], code: str
) -> None:
    """A node of another chain, or an address that is not in the ring; status 78."""
    good = (stack.home / "networks.toml").read_text(encoding="utf-8")
    wrong = good.replace("chain_id = 31337", "chain_id = 1")
    (tmp_path / "wrong.toml").write_text(wrong, encoding="utf-8")
    guard = ("-m", "api.cli", "guard")
    finished = run_python(*guard, environ=stack.environ | change, cwd=tmp_path)
    lines = finished.stderr.splitlines()
    refused = [line for line in lines if line.startswith("refused: ")]

    assert finished.returncode == 78
    assert [line.split(": ")[1] for line in refused] == [code]


def test_the_guard_warns_of_softhsm(stack: Stack) -> None:
    finished = run_python("-m", "api.cli", "guard", environ=stack.environ)

    assert finished.returncode == 0
    assert "NOT SAFE FOR PRODUCTION" in finished.stderr


# The variables that the examples of docs/reference/library.md use.
_LIBRARY_VALUES = """
import os
from signer.config.settings import Settings
from pathlib import Path
from signer.config.networks import load_networks
from softhsm.library import require_module
home, label, key_id = os.environ["HOTWALLET_HOME"], "hotwallet", "01"
module = require_module(Settings.from_env(os.environ))
os.environ["SOFTHSM2_CONF"] = f"{home}/softhsm/softhsm2.conf"
pin = open(f"{home}/softhsm/pin").read().strip()
database_url = f"sqlite:///{home}/hotwallet.db"
mac_key_file = f"{home}/mac.key"
networks_file, tenants_file = f"{home}/networks.toml", f"{home}/example-tenants.toml"
networks = load_networks(Path(networks_file))
with open(tenants_file, "w") as tenants:
    tenants.write('[tenants.shop]\\nsubjects = ["shop"]\\n')
policy_dir = f"{home}/example-policy"
os.mkdir(policy_dir)
with open(f"{policy_dir}/scripts.cedar", "w") as rules:
    rules.write('@id("scripts") permit (principal, action, resource)'
        ' when { context.path == "account" };')
document = {
    "types": {"Vote": [{"name": "yes", "type": "bool"}]},
    "primaryType": "Vote",
    "domain": {"name": "Example", "chainId": 1},
    "message": {"yes": True},
}
"""


def test_the_library_examples_sign_with_the_key_of_the_stack(stack: Stack) -> None:
    page = ROOT / "docs" / "reference" / "library.md"
    text = page.read_text(encoding="utf-8")
    found: list[str] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    # The others are of other devices.
    examples = [each for each in found if "_kms" not in each.lower()]
    program = "".join([_LIBRARY_VALUES, *examples, "print('signed')\n"])
    finished = run_python("-c", program, environ=stack.environ)

    assert finished.stdout.splitlines()[-1:] == ["signed"], finished.stderr
