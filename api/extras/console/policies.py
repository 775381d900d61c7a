"""Which rules and limits are in force, and what they decided and refused."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from api.container import Container
from api.extras.console.audit import LOOKED_AT, newest_records, read_fields
from api.extras.console.rendering import format_amount
from api.extras.console.trends import share
from api.metrics.metric_names import DECISIONS
from api.metrics.shared_meter import read_shared
from signer.config.deny_list import DenyList
from signer.config.networks import Network
from signer.config.tenants import NO_LIMITS, Tenant
from signer.errors import ScreeningUnavailableError
from signer.model.spending_limits import (
    GAS_PER_HOUR,
    Allowance,
    Bound,
    LimitScope,
    list_allowances,
)
from signer.policy.policy import AnyPolicy
from signer.ports.ledger import Ledger, SharedState
from signer.ports.refund_reports import GAS, SpentLately
from signer.row_macs import RowMACs


_PER_RECIPIENT = "daily_limit_per_recipient"

_NAMES: Mapping[str, str] = {
    "hourly_limit": "this clock hour",
    "daily_limit": "this clock hour and the 23 before it",
    _PER_RECIPIENT: "the same, for each recipient",
    GAS_PER_HOUR: "gas of this clock hour",
}

ALL_TENANTS = ""


@dataclass(frozen=True, slots=True)
class ShownBound:
    """
    A limit per hour or day.

    ``used`` and ``left`` are None if it counts each recipient apart.
    """

    name: str
    limit: str
    used: str | None
    left: str | None
    percent: float | None

    @property
    def kind(self) -> str:
        """The class of the bar: how urgent it is."""
        if self.percent is None or self.percent < 75:  # noqa: PLR2004
            return "fill-good"
        return "fill-warn" if self.percent < 100 else "fill-bad"  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """
    What applies to one tenant; ``name`` is "" for what all tenants share.

    ``allowances`` are what one refund of a token may pay, with the limits of all.
    ``blocked_at`` is since when the tenant is blocked, None if it is not.
    """

    name: str
    allowances: Sequence[tuple[Allowance, Sequence[ShownBound]]]
    rules: Mapping[str, str]
    blocked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refusals:
    """How often something was refused for one reason, and when last."""

    event: str
    reason: str
    number: int
    last: str


def read_policies(container: Container) -> Sequence[TenantPolicy]:
    """Return the rules that all tenants share, then those of each tenant."""
    ledger, networks = container.store, container.networks
    shared = TenantPolicy(
        ALL_TENANTS,
        list(_allowances(ledger, networks, NO_LIMITS, None)),
        {name: _network_rules(network) for name, network in networks.items()},
    )
    blocks = {each.tenant: each for each in ledger.blocks()}
    found = [shared]
    for name, tenant in (container.tenants.tenants or {}).items():
        block = blocks.get(name)
        found.append(
            TenantPolicy(
                name,
                list(_allowances(ledger, networks, tenant, name)),
                dict(_tenant_rules(tenant)),
                None if block is None else block.at,
            )
        )
    return found


def _allowances(
    ledger: Ledger, networks: Mapping[str, Network], tenant: Tenant, name: str | None
) -> Iterator[tuple[Allowance, Sequence[ShownBound]]]:
    scope = LimitScope.SERVICE if name is None else LimitScope.TENANT
    for allowance in list_allowances(networks, tenant):
        bounds = [each for each in allowance.bounds if each.scope is scope]
        tokens = [GAS, allowance.token.address]
        spent = ledger.spent_lately(allowance.chain_id, tokens, name) if bounds else {}
        yield allowance, [_show_bound(each, allowance, spent) for each in bounds]


def _show_bound(
    bound: Bound, allowance: Allowance, spent: Mapping[str, SpentLately]
) -> ShownBound:
    is_gas = bound.name == GAS_PER_HOUR
    decimals = 0 if is_gas else allowance.token.decimals
    unit = "gas" if is_gas else allowance.symbol
    limit = f"{format_amount(bound.limit, decimals)} {unit}"
    if bound.name == _PER_RECIPIENT:
        return ShownBound(_NAMES[bound.name], limit, None, None, None)
    counted = spent.get(GAS if is_gas else allowance.token.address, SpentLately())
    used = counted.day if bound.name == "daily_limit" else counted.hour
    left = max(0, bound.limit - used)  # It may have been lowered since then.
    return ShownBound(
        _NAMES[bound.name],
        limit,
        f"{format_amount(used, decimals)} {unit}",
        f"{format_amount(left, decimals)} {unit}",
        share(used, bound.limit),
    )


def _network_rules(network: Network) -> str:
    stop = network.automatic_stop
    rules = [f"fees up to {network.max_fee_per_gas_gwei} gwei per gas"]
    if network.max_fee_factor:
        rules.append(f"and {network.max_fee_factor} times the recent median")
    minutes = f"in {stop.window_minutes} minutes"
    if stop.max_refunds is not None:
        rules.append(f"stops after {stop.max_refunds} refunds {minutes}")
    rules += [
        f"stops after {amount} {symbol} {minutes}"
        for symbol, amount in stop.max_amounts.items()
    ]
    if stop.max_failed_percent is not None:
        rules.append(
            f"stops when over {stop.max_failed_percent} % of the last"
            f" {stop.failed_of_last} results failed"
        )
    if stop.max_gas_per_hour is not None:
        rules.append(f"stops after {stop.max_gas_per_hour} gas in an hour")
    if not stop.has_rules:
        rules.append("no automatic stop")
    return "; ".join(rules)


def _tenant_rules(tenant: Tenant) -> Iterator[tuple[str, str]]:
    callers = [*tenant.subjects, *tenant.client_ids]
    yield "callers", ", ".join(callers) or "none"
    for name, value in (
        ("open refunds", tenant.max_open_refunds),
        ("requests per minute", tenant.requests_per_minute),
        ("concurrent requests", tenant.max_concurrent_requests),
        ("waiting requests", tenant.max_waiting_requests),
    ):
        yield name, "no limit of its own" if value is None else f"at most {value}"
    signs = (
        f"yes, with {len(tenant.request_keys)} keys" if tenant.request_keys else "no"
    )
    yield "must sign its requests", signs


def count_refusals(ledger: Ledger, macs: RowMACs) -> Sequence[Refusals]:
    """Return what the newest audit records say was refused, the most frequent first."""
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for sealed in newest_records(ledger, LOOKED_AT):
        if '-refused"' not in sealed.record.body:
            continue
        fields = read_fields(sealed.record, macs) or {}
        event, details = str(fields.get("event")), fields.get("details")
        if not event.endswith("-refused"):
            continue
        details = details if isinstance(details, dict) else {}
        reason = details.get("rule") or details.get("code") or fields.get("outcome")
        key = event, str(reason)
        number, last = found.get(key, (0, str(fields.get("timestamp", ""))))
        found[key] = number + 1, last
    order = sorted(found.items(), key=lambda each: (-each[1][0], each[0]))
    return [Refusals(*key, *value) for key, value in order]


@dataclass(frozen=True, slots=True)
class RuleFile:
    """The rules of one file; ``is_own`` if the operator wrote them."""

    name: str
    text: str
    rules: Sequence[str]
    is_own: bool


@dataclass(frozen=True, slots=True)
class Decided:
    """How often a rule decided in one way about one path, since the database exists."""

    rule: str
    verdict: str
    path: str
    number: int


@dataclass(frozen=True, slots=True)
class DenyListState:
    """How many addresses the deny list has, or why it cannot be used."""

    addresses: int = 0
    problem: str | None = None


def read_rule_files(policy: AnyPolicy) -> Sequence[RuleFile]:
    """Return the files of *policy*, as they are in force now."""
    return [
        RuleFile(
            file.name,
            file.text.strip(),
            list(
                dict.fromkeys(
                    rule.name
                    for rule in policy.rules
                    if rule.statement.file == file.name
                )
            ),
            file in policy.own_files,
        )
        for file in policy.files
    ]


def count_decisions(counters: SharedState) -> Sequence[Decided]:
    """Return what was decided in all processes, the most frequent first."""
    decisions = read_shared(counters.shared_counts()).of(DECISIONS)
    found = [
        Decided(rule, verdict, path, int(number))
        for (path, verdict, rule), number in decisions.items()
    ]
    return sorted(found, key=lambda each: (-each.number, each.rule, each.path))


def read_deny_list(deny_list: DenyList | None) -> DenyListState | None:
    """Return the state of *deny_list*; None without one."""
    if deny_list is None:
        return None
    try:
        return DenyListState(len(deny_list.addresses()))
    except ScreeningUnavailableError as e:
        return DenyListState(problem=str(e))
