"""
The rules that this project makes: the floor, the service's default, the account's.

A policy is the floor, one of the two defaults, and the files of the operator.  The
floor consists of ``forbid`` rules, so that no ``permit`` can allow what it forbids.
"""

import json
from collections.abc import Iterator, Mapping

from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.model.approval_need import ApprovalNeed
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile


FLOOR = PolicyFile(
    "floor.cedar",
    """\
// What no other rule can permit, on any path.

@id("chain-id")  // 0 is valid on every chain (EIP-155).
forbid (principal, action == Action::"sign-transaction", resource)
when { context.exceeded.contains("chain-id") };

@id("calldata")  // The contract may read something else than the policy.
forbid (
  principal,
  action in [Action::"sign-transaction", Action::"sign-typed-data"],
  resource
)
when { context.calldata == "malformed" };

@id("extra-calldata")  // They could forge the mark of another refund.
forbid (principal, action == Action::"sign-transaction", resource)
when { context.calldata == "extra" };

@id("delegation")  // Code of others would have the whole wallet (EIP-7702).
forbid (principal, action == Action::"sign-transaction", resource)
when { context.path != "account" && context.type == 4 };

@id("delegation")
forbid (principal, action == Action::"sign-authorization", resource)
when { context.path != "account" };

@id("recipient-denied")  // DENY_LIST_FILE has the recipient, or one in a document.
forbid (
  principal,
  action in [Action::"sign-transaction", Action::"sign-typed-data"],
  resource
)
when { context.denied };

// The limits of NETWORKS_FILE and TENANTS_FILE, compared as exact integers.

@id("gas")
forbid (principal, action == Action::"sign-transaction", resource)
when { context.path != "account" && context.exceeded.contains("gas") };

@id("max-fee")
forbid (principal, action == Action::"sign-transaction", resource)
when { context.exceeded.contains("max-fee") };

@id("max-amount")
forbid (
  principal,
  action in [Action::"sign-transaction", Action::"sign-typed-data"],
  resource
)
when { context.exceeded.contains("max-amount") };

@id("min-amount")
forbid (principal, action == Action::"sign-transaction", resource)
when { context.exceeded.contains("min-amount") };
""",
)

SERVICE_WALLET = PolicyFile(
    "service-wallet.cedar",
    """\
// The service pauses a wallet when it finds a nonce that it did not reserve.

@id("service-wallet")
forbid (
  principal,
  // The account's nonce is in an authorisation as well (EIP-7702).
  action in [Action::"sign-transaction", Action::"sign-authorization"],
  resource
)
when { context.service_wallet };
""",
)

_SERVICE = """\
@id("refund")  // The transfer of an accepted refund, which ends with its mark.
permit (principal is Tenant, action == Action::"sign-transaction", resource is Network)
when {
  context.path == "refund" && context.type <= 2
  && context.shape == "token-transfer" && context.calldata == "marked"
  && context.recipient_kind == "other"
};

@id("sweep")  // Coin or tokens of a former key, to the key that is active now.
permit (principal is Service, action == Action::"sign-transaction", resource is Network)
when {
  context.path == "sweep" && context.type <= 2 && context.recipient_kind == "active"
  && (context.shape == "coin-transfer"
      || (context.shape == "token-transfer" && context.calldata == "marked"))
};

@id("no-op")  // It uses a nonce up.
permit (principal is Service, action == Action::"sign-transaction", resource is Network)
when {
  context.path == "no-op" && context.type <= 2 && context.shape == "empty"
  && context.recipient_kind == "self"
};
"""

_APPROVE_ABOVE = """
@id("approve-above") @approvals("1")
forbid (principal is Tenant, action == Action::"sign-transaction", resource)
when { context.path == "refund" && context.exceeded.contains("approve-above") };
"""

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

_ACCOUNT = """\
// What an account signs that was opened without a policy.

@id("transaction")
permit (principal, action == Action::"sign-transaction", resource)
when {
  context.path == "account" && context.type <= 2 && context.shape != "creation"
  && !context.allowance && !context.exceeded.contains("gas")
};

@id("message")
permit (principal, action == Action::"sign-message", resource)
when { context.path == "account" && context.length != 32 };

@id("typed-data")  // A contract may read an order or a permit of a kind of its own.
permit (principal, action == Action::"sign-typed-data", resource)
when {
  context.path == "account" && context.kind == "unknown"
  && !(context has verifying_contract) && !context.names_token
};
"""

SHARED_ACCOUNT = (FLOOR, PolicyFile("account.cedar", _ACCOUNT))
"""The default of an ``HSMAccount`` that may use the nonces of a service's wallet."""

ACCOUNT = (*SHARED_ACCOUNT, SERVICE_WALLET)
"""The default of ``HSMAccount``."""


def service_files(
    networks: Mapping[str, Network], tenants: TenantRegistry
) -> tuple[PolicyFile, ...]:
    """
    Return the default of the service: the floor, and what the configuration allows.

    Rules ask whether a token is configured; the limits of each are compared as integers
    (``limits``), and are comments here.  So the number of rules, and the time of a
    decision, do not grow with the configuration.
    """
    text = "\n".join([*_describe(networks), "", _SERVICE, *_tenant_rules(tenants)])
    if _has_threshold(networks, tenants):
        text += _APPROVE_ABOVE
    default = PolicyFile("default.cedar", text)
    return (FLOOR, default, SERVICE_WALLET)


def _has_threshold(networks: Mapping[str, Network], tenants: TenantRegistry) -> bool:
    """Return whether an amount needs an approval; without one, no refund is asked."""
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
