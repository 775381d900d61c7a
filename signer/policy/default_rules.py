"""
The rules that this project makes: the floor, the service's default, the account's.

A policy is the floor, one of the two defaults, and the files of the operator.  The
floor consists of ``forbid`` rules, so that no ``permit`` can allow what it forbids.
The texts are in ``*.cedar`` beside this file.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files

from signer.config.networks import SIGNED_TYPES, Network
from signer.config.tenants import TenantRegistry
from signer.model.decision import ApprovalNeed
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile


def _read(name: str) -> PolicyFile:
    text = files("signer.policy").joinpath(name).read_text(encoding="utf-8")
    return PolicyFile(name, text)


FLOOR = _read("floor.cedar")
SERVICE_WALLET = _read("service-wallet.cedar")
_APPROVE_ABOVE = _read("approve-above.cedar").text

AMOUNT_NEED = ApprovalNeed(
    frozenset(
        rule.version
        for rule in Policy.compile([PolicyFile("default.cedar", _APPROVE_ABOVE)]).rules
    )
)
"""
What only ``approve_above`` of the configuration demands.

It has the text of the rule: an own rule with the same name is another one.
"""

SHARED_ACCOUNT = (FLOOR, _read("account.cedar"))
"""The default of an ``HSMAccount`` that may use the nonces of a service's wallet."""

ACCOUNT = (*SHARED_ACCOUNT, SERVICE_WALLET)
"""The default of ``HSMAccount``."""


@lru_cache(maxsize=64)
def account_policy(own: str = "", *, shares_service_wallet: bool = False) -> Policy:
    """
    Return the default policy of accounts, and *own* rules in Cedar that extend it.

    ::

        account_policy('''
            @id("digests")
            permit (principal, action == Action::"sign-digest", resource);
        ''')

    With *shares_service_wallet*, an account with a ledger may also use nonces of an
    address from which the service pays.  The service then pauses the wallet, until an
    operator accepts the transactions (``hotwallet nonce repair``).

    Raises:
        ConfigurationError: ``policy-invalid``: a rule of *own* cannot be used; the
            message has its line.
    """
    rules = [PolicyFile("policy", own)] if own else []
    return Policy.compile(SHARED_ACCOUNT if shares_service_wallet else ACCOUNT, rules)


def service_files(
    networks: Mapping[str, Network], tenants: TenantRegistry
) -> tuple[PolicyFile, ...]:
    """
    Return the default of the service: the floor, and what the configuration allows.

    Rules ask whether a token is configured; the limits of each are compared as integers
    (``limits``), and are comments here.  So the number of rules, and the time of a
    decision, do not grow with the configuration.
    """
    rules = _read("service.cedar").text.replace("SIGNED_TYPES", f"{[*SIGNED_TYPES]}")
    text = "\n".join([*_describe(networks), "", rules, *_tenant_rules(tenants)])
    if _has_threshold(networks, tenants):
        text += _APPROVE_ABOVE
    default = PolicyFile("default.cedar", text)
    return (FLOOR, default, SERVICE_WALLET)


def _has_threshold(networks: Mapping[str, Network], tenants: TenantRegistry) -> bool:
    tokens = [each for network in networks.values() for each in network.tokens.values()]
    return any(each.approve_above for each in tokens) or any(
        each.approve_above for each in tenants.all_token_limits()
    )


def _describe(networks: Mapping[str, Network]) -> Iterator[str]:
    yield "// Generated from NETWORKS_FILE and TENANTS_FILE: what they allow."
    yield "//"
    for name, network in networks.items():
        yield (
            f"// Network::{_quote(name)}: chain {network.chain_id}, at most"
            f" {network.max_fee_per_gas_gwei} gwei per gas"
        )
        for symbol, token in network.tokens.items():
            yield (
                f"//   {_quote(symbol)}: {token.address}, at most {token.max_amount}"
                f" in one transfer, {token.max_gas} gas"
            )


def _tenant_rules(tenants: TenantRegistry) -> Iterator[str]:
    """Yield the rule that only tenants of the file may have transactions signed."""
    if tenants.tenants is None:
        return
    names = ", ".join(f"Tenant::{_quote(name)}" for name in tenants.tenants)
    yield (
        '@id("tenant")\n'
        "forbid (principal is Tenant, action, resource)\n"
        'when { ["json-rpc", "rest"].contains(context.path) }\n'
        f"unless {{ [{names}].contains(principal) }};\n"
    )


def _quote(name: str) -> str:
    """Return *name* as a string; also in a comment, it must not begin a new line."""
    return json.dumps(name)
