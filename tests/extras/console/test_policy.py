"""The page of the policy: rules, decisions, limits, and what was refused."""

import re
from pathlib import Path

import pytest

from api.container import Container
from api.extras.console.policies import (
    Decided,
    ShownBound,
    count_decisions,
    count_refusals,
    read_policies,
    read_rule_files,
)
from api.metrics.metric_names import DECISIONS, REFUSALS
from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.audit.actions import AuditAction
from signer.audit.checkpointer import Checkpointer
from signer.audit.sealer import Sealer
from signer.config.deny_list import DenyList
from signer.config.networks import Network
from signer.config.tenants import Tenant, TenantRegistry
from signer.model.audit_record import Actor, Operation, Record
from signer.model.hold import Hold
from signer.policy.default_rules import service_files
from signer.policy.policy import LivePolicy, Policy
from signer.policy.rules import PolicyFile
from tests.api.browser import Browser
from tests.api.service import NETWORKS, TOKEN_ADDRESS
from tests.api.support import SettableClock
from tests.fixtures.ledger import accepted, reserved
from tests.support.ledgers import ROW_MACS


TENANT = Tenant.model_validate(
    {
        "subjects": ["gateway-1"],
        "max_open_refunds": 10,
        "networks": {
            "local": {
                "gas_per_hour": 2_000_000,
                "tokens": {"TUSD": {"daily_limit_per_recipient": "1000"}},
            }
        },
    }
)


@pytest.fixture
def limited(container: Container) -> Container:
    """A container with limits of the network, and of the tenant shop."""
    network = NETWORKS["local"].model_dump()
    network["tokens"]["TUSD"] |= {"hourly_limit": "1000", "approve_above": "500"}
    network["automatic_stop"] = {
        "max_refunds": 20,
        "max_amounts": {"TUSD": "900"},
        "max_failed_percent": 20,
        "max_gas_per_hour": 30_000_000,
    }
    container.networks = {"local": Network.model_validate(network)}
    container.tenants = TenantRegistry({"shop": TENANT})
    return container


def test_limits_show_what_is_left(limited: Container, sqlite_store: SQLStore) -> None:
    refund = accepted(
        sqlite_store, tenant="shop", token_address=TOKEN_ADDRESS, amount=750_000_000
    )
    reserved(sqlite_store, refund)
    everyone, shop = read_policies(limited)
    ((_, (hourly,)),) = everyone.allowances
    ((_, (recipient, gas)),) = shop.allowances

    assert (hourly.limit, hourly.used) == ("1000.00 TUSD", "750.00 TUSD")
    assert (hourly.left, hourly.percent) == ("250.00 TUSD", 75)
    assert hourly.kind == "fill-warn"
    assert (recipient.left, recipient.kind) == (None, "fill-good")
    assert (gas.limit, gas.used) == ("2000000 gas", "65000 gas")
    assert shop.rules["open refunds"] == "at most 10"
    assert "stops after 20 refunds in 10 minutes" in everyone.rules["local"]
    assert "stops after 900 TUSD" in everyone.rules["local"]
    assert "over 20 % of the last 20" in everyone.rules["local"]
    assert "30000000 gas in an hour" in everyone.rules["local"]


def test_amounts_are_in_whole_tokens(limited: Container, browser: Browser) -> None:
    page = browser.get("/console/policy").text

    assert "up to 1000.00 TUSD; more than 500.00 needs an approval" in page


def test_a_limit_that_is_used_up_is_red() -> None:
    assert ShownBound("x", "1", "1", "0", 100).kind == "fill-bad"


def test_a_blocked_tenant_is_marked(
    limited: Container, browser: Browser, sqlite_store: SQLStore, clock: SettableClock
) -> None:
    sqlite_store.begin_hold(Hold.of_tenant("shop", clock.now, "", "cli:tests"))
    page = browser.get("/console/policy").text

    assert "blocked since 2026-11-24" in page
    assert re.findall(r"<h2[^>]*>(?:All tenants|Tenant)", page)


def test_refusals_are_counted_by_reason(
    container: Container, sqlite_store: SQLStore, browser: Browser, clock: SettableClock
) -> None:
    """Of genuine records only: another program may have written the others."""
    audit = container.audit
    for code in ("execution-reverted", "execution-reverted", "tenant-blocked"):
        audit.write(
            audit.result(
                AuditAction.REFUND_REFUSE,
                Operation.REFUND,
                Actor("worker"),
                outcome="refused",
                code=code,
            )
        )
    forged = Record.of(
        {"event": "refund-refuse-refused", "outcome": "invented"}, clock.now
    )
    sqlite_store.append([forged])
    Sealer(Checkpointer(sqlite_store, alerts=Alerts(sqlite_store))).work()

    found = [
        (each.event, each.reason, each.number)
        for each in count_refusals(sqlite_store, ROW_MACS)
    ]
    assert found[0] == ("refund-refuse-refused", "execution-reverted", 2)
    assert ("refund-refuse-refused", "tenant-blocked", 1) in found
    assert "execution-reverted" in browser.get("/console/policy").text


OWN = '@id("our-rule")  // <b>Ours</b>.\nforbid (principal, action, resource);'


def test_the_rules_in_force_are_shown(limited: Container, browser: Browser) -> None:
    """With their texts and the hash that signatures have; the own ones are marked."""
    defaults = service_files(limited.networks, limited.tenants)
    own = PolicyFile("own.cedar", OWN)
    limited.policy = LivePolicy(Policy.compile(defaults, [own]))
    page = browser.get("/console/policy").text
    files = read_rule_files(limited.policy)

    assert [each.name for each in files if each.is_own] == ["own.cedar"]
    assert files[-1].rules == ["our-rule"]
    assert sum(len(each.rules) for each in files) > 10
    assert limited.policy.hash in page
    assert "&lt;b&gt;Ours&lt;/b&gt;" in page
    assert "<b>Ours" not in page
    assert "not in force" not in page


def test_rules_that_are_not_in_force_are_shown(
    limited: Container, browser: Browser
) -> None:
    """The files were changed, and this process still has the rules from before."""
    limited.policy.problem = "own.cedar, line 3: the forbid has no name"
    page = browser.get("/console/policy").text

    assert "own.cedar, line 3: the forbid has no name" in page
    assert 'href="/console/codes/policy-not-reloaded"' in page


def test_decisions_are_counted_by_rule(
    sqlite_store: SQLStore, browser: Browser, clock: SettableClock
) -> None:
    """Those of all processes; a row of another program is a text at most."""
    assert "Nothing was decided yet" in browser.get("/console/policy").text
    sqlite_store.add_counts(
        {
            (DECISIONS.name, "refund", "allow", "refund"): 2,
            (DECISIONS.name, "rest", "refuse", "<script>"): 3,
            (DECISIONS.name, "nowhere", "allow", "refund"): 4,
            (REFUSALS.name, "policy-violation"): 5,
        },
        clock.now,
    )
    page = browser.get("/console/policy").text

    assert count_decisions(sqlite_store) == [
        Decided("<script>", "refuse", "rest", 3),
        Decided("refund", "allow", "refund", 2),
    ]
    assert 'href="/console/signatures?rule=refund&amp;path=refund"' in page
    assert "<script" not in page


def test_the_state_of_the_deny_list_is_shown(
    container: Container, browser: Browser, tmp_path: Path
) -> None:
    """Without a list, with one, and with one that cannot be used."""
    assert "DENY_LIST_FILE</code> is not set" in browser.get("/console/policy").text
    file = tmp_path / "denied.txt"
    file.write_text(f"0x{'11' * 20}\n", encoding="utf-8")
    container.deny_list = DenyList(file)
    assert "1 on the list" in browser.get("/console/policy").text
    file.write_text("0x11\n", encoding="utf-8")
    page = browser.get("/console/policy").text

    assert "line 1 is no address and no comment" in page
    assert "/console/codes/screening-unavailable" in page
