"""The stack of real processes pays refunds, shows no secrets, and has metrics."""

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from api.metrics import metric_names
from bench.processes import children
from dev import stablecoin
from dev.stack import SYMBOL, Stack, running_stack
from tests.e2e.conftest import CHAINS, chain_options
from tests.e2e.gateway import RECIPIENT, Gateway
from tests.e2e.operator import SPECS, Operator
from tests.support.monitoring import expressions, labels_of, metrics_of
from tests.support.programs import ROOT, run_python
from tests.support.waiting import eventually


WITHIN_SECONDS = 30.0
"""How soon a problem must be visible everywhere."""

_eventually = partial(eventually, pause=0.5)

_MAY_BE_ABSENT = frozenset(
    {
        "hotwallet_approvals_waiting",
        "hotwallet_audit_checkpoint_age_seconds",
        "hotwallet_audit_unshipped_seconds",
        "hotwallet_batch_size",
        "hotwallet_batch_unpaid",
        "hotwallet_refund_delays",
        "hotwallet_refunds_open",
        "hotwallet_refusals",
        "hotwallet_top_up_failing",
        "hotwallet_vault_revoked_operators",
        "hotwallet_webhook_deliveries",
    }
)
"""What has no sample while nothing waits, or while its setting is not set."""

_ALL = metric_names.ALL


@pytest.fixture(scope="module", params=CHAINS)
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A running stack with four gunicorn workers and a SoftHSM token."""
    home = tmp_path_factory.mktemp("stack") / "home"
    settings = {"WEB_CONCURRENCY": "4"}
    chain = chain_options(request.param)
    with running_stack(home, settings=settings, **chain) as running:
        yield running


@pytest.fixture(scope="module")
def operator(stack: Stack) -> Operator:
    return Operator.of(stack)


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> Gateway:
    return Gateway.of(stack)


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


def test_only_the_worker_signs_refunds(stack: Stack, gateway: Gateway) -> None:
    """Eight clients request 24 refunds; each is paid with a nonce of its own."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: gateway.post(), range(24)))
        ids = [body["id"] for _, _, body in answers]
        paid = list(pool.map(lambda each: gateway.wait(each, "confirmed"), ids))
    signed = [e for e in _events(stack.home, "digest-sign-succeeded") if e["refund_id"]]

    assert {201} == {status for status, _, _ in answers}
    assert len({refund["nonce"] for refund in paid}) == 24
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


def test_the_metrics_of_rules_and_dashboard_exist(
    gateway: Gateway, operator: Operator
) -> None:
    """After a refund, each has the type and the labels of the catalogue."""
    _, _, refund = gateway.post()
    gateway.wait(refund["id"], "confirmed")
    confirmed = "hotwallet_refund_confirmed_seconds_count"
    assert _eventually(lambda: operator.value(confirmed) >= 1, WITHIN_SECONDS)
    # Known once a refund is confirmed, and a worker has looked after that.
    left = "hotwallet_wallet_refunds_left"
    late = 2 * WITHIN_SECONDS  # It looks every 30 seconds, and then writes its row.
    assert _eventually(lambda: operator.value(left, asset=SYMBOL), late)
    # The worker has counted the decision about its signature.
    signed = partial(
        operator.value,
        "hotwallet_policy_decisions_total",
        path="refund",
        verdict="allow",
        rule="refund",
    )
    assert _eventually(lambda: signed() >= 1, WITHIN_SECONDS)
    counted = "hotwallet_signatures_total"
    assert _eventually(lambda: operator.values(counted), WITHIN_SECONDS)
    families = operator.metrics()
    used = {each for _, expression in expressions() for each in metrics_of(expression)}

    assert {SPECS[name].family_name for name in used} <= set(families)
    assert set(families) == {spec.family_name for spec in _ALL}
    for spec in _ALL:
        family = families[spec.family_name]
        of_workers = {"worker"} if spec in metric_names.OF_WORKERS else set()
        assert family.type == spec.kind
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == {*spec.labels} | of_workers
    without = {name for name, each in families.items() if not each.samples}
    assert without <= _MAY_BE_ABSENT


def test_the_labels_of_rules_and_dashboard_exist(operator: Operator) -> None:
    """Each label that an expression uses is a label of a sample of its metrics."""
    families = operator.metrics()
    for name, expression in expressions():
        samples = [
            sample
            for metric in metrics_of(expression)
            for sample in families[SPECS[metric].family_name].samples
        ]
        labels = {label for sample in samples for label in sample.labels}
        assert not samples or labels_of(expression) <= labels, name


def test_all_processes_count_refusals_together(
    gateway: Gateway, operator: Operator
) -> None:
    """Whichever of the four gunicorn workers refuses, and whichever is scraped."""
    refused = partial(
        operator.value, "hotwallet_refusals_total", code="policy-violation"
    )
    decided = partial(
        operator.value,
        "hotwallet_policy_decisions_total",
        path="refund",
        verdict="refuse",
        rule="token",
    )
    before, decided_before = refused(), decided()
    codes = {gateway.post(token="NONE")[2]["code"] for _ in range(12)}

    assert codes == {"policy-violation"}
    assert _eventually(lambda: refused() == before + 12, WITHIN_SECONDS)
    assert _eventually(lambda: decided() == decided_before + 12, WITHIN_SECONDS)
