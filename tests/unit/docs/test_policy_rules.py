"""
The rules that guides show: each is valid, and lets through no attack.

The attacks are those of ``tests/vectors/policy.json``.
"""

import re
from pathlib import Path
from textwrap import dedent

import pytest

from signer.errors import ConfigurationError
from signer.model.decision import Verdict
from signer.policy.default_rules import account_policy
from signer.policy.facts import Path as SigningPath
from signer.policy.policy import Policy
from tests.support.policy import CASES, NETWORKS, decide, service_policy
from tests.support.policy_reload import compiled


ROOT = Path(__file__).resolve().parents[3]

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

_BLOCKS = {
    f"{path.parent.name}/{path.stem} {number}": (language, dedent(block))
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if path.parent.name != "adr"
    for number, (language, block) in enumerate(
        _FENCE.findall(path.read_text(encoding="utf-8")), start=1
    )
    if "@id(" in block
}

RULES = {
    name: block
    for name, (language, block) in _BLOCKS.items()
    if language in {"cedar", ""}
}


PERMITS = [rules for rules in RULES.values() if "permit (" in rules]
"""A forbid lets nothing through."""

_OF_ACCOUNT = re.compile(r'account_policy\((f?)"""(.*?)"""', re.DOTALL)

# A Python example may write the address of a token that it deployed.
ACCOUNT_RULES = {
    name: rules.format(token=NETWORKS["local"].tokens["TUSD"]) if is_format else rules
    for name, (language, block) in _BLOCKS.items()
    if language == "python"
    for is_format, rules in _OF_ACCOUNT.findall(block)
}

# What the rules of a guide let through beside the default: each was looked at.
LETS = {
    "account: approve-router": {"Functions of tokens: approve one unit"},
    **{
        f"{path}: payouts-by-authorization": {
            "Typed data: TransferWithAuthorization (ERC-3009)"
        }
        for path in ("json-rpc", "rest")
    },
    "account: hashes": {
        "Digests and authorisations: digest of a transaction",
        "Digests and authorisations: digest of a message",
    },
    # EIP-191 puts a prefix before each: none is a transaction or typed data.
    "json-rpc: login-messages": {
        case.name for case in CASES if case.rules["json-rpc"] == "message"
    },
}


@pytest.mark.parametrize("name", RULES)
def test_the_rules_of_a_guide_are_valid(name: str) -> None:
    """A fact or an annotation that was renamed would be refused."""
    assert compiled({"own.cedar": RULES[name]}).own_files


def test_rules_are_found_and_a_wrong_one_is_refused() -> None:
    pages = {name.split()[0] for name in RULES}
    accounts = {name.split()[0] for name in ACCOUNT_RULES}

    guides = {"policy", "approvals", "several-wallets"}
    assert {f"how-to/{each}" for each in guides} <= pages
    assert "reference/json-rpc" in pages
    assert accounts == {
        "how-to/test-with-hsm",
        "how-to/web3py-account",
        "reference/library",
    }
    wrong = RULES[next(iter(RULES))].replace("context.", "context.no_", 1)
    with pytest.raises(ConfigurationError, match="policy-invalid"):
        compiled({"own.cedar": wrong})


def _localised(rules: str) -> str:
    """Return *rules* for the network and the token of the attacks."""
    local = re.sub(r'Network::"[a-z-]+"', 'Network::"local"', rules)
    return local.replace('"USDC"', '"TUSD"')


def _let_through(policies: list[Policy], *paths: SigningPath) -> dict[str, set[str]]:
    """Return the attacks that are signed, by path and by the rule that permits them."""
    found: dict[str, set[str]] = {}
    for policy in policies:
        for path in paths:
            for case in CASES:
                if case.rules[path].startswith("+"):
                    continue
                decision = decide(case, path, policy).decision
                if decision.verdict is not Verdict.REFUSE:
                    found.setdefault(f"{path}: {decision.rule}", set()).add(case.name)
    return found


def test_no_rule_of_a_guide_lets_an_attack_through() -> None:
    """Only what the guide is about is signed in addition, on its path."""
    services = [service_policy(_localised(rules)) for rules in PERMITS]

    accounts = [account_policy(rules) for rules in ACCOUNT_RULES.values()]

    paths = set(SigningPath) - {SigningPath.ACCOUNT}
    found = _let_through(services, *sorted(paths))
    found |= _let_through(accounts, SigningPath.ACCOUNT)

    assert found == LETS


def test_no_rule_of_a_guide_lets_a_client_choose_a_nonce() -> None:
    """A transaction with the wallet's next nonce would pause it for all tenants."""
    clients = (SigningPath.JSON_RPC, SigningPath.REST)
    everything = '@id("all") permit (principal, action, resource);'
    for rules in (*PERMITS, everything):
        policy = service_policy(_localised(rules))
        for case in CASES:
            if case.given.keys() & {"transaction", "authorization"}:
                for path in clients:
                    rules_found = decide(case, path, policy).decision.rules
                    assert "service-wallet" in rules_found
