"""The plan of a restore as JSON and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from signer.restore.evidence import EvidenceSummary
    from signer.restore.lost_changes import KeyChange
    from signer.restore.plan import RestorePlan, WalletPlan


def restore_document(
    plan: RestorePlan, read: EvidenceSummary, *, done: bool
) -> dict[str, Any]:
    """Return *plan*, and what was *read* from the log, as JSON."""
    from api.views.refunds import fields

    return {
        "done": done,
        "log": {
            **fields(
                read,
                *("lines", "records", "authentic", "redacted", "malformed"),
                *("without_mac", "unknown_key", "forged", "damaged"),
            ),
            "hosts": {
                name: fields(host, "lines", "first", "last")
                for name, host in read.hosts.items()
            },
        },
        "key_changes": [
            {
                "action": str(change.action),
                "address": change.address,
                "key": change.key,
                "previous": change.previous,
                "compromised": change.compromised,
            }
            for change in plan.key_changes
        ],
        "stops": [
            {"network": network, "reason": reason}
            for network, reason in plan.stops.items()
        ],
        "blocked_tenants": list(plan.blocked_tenants),
        "wallets": [
            {
                "network": each.network,
                "address": each.wallet.sender,
                "next_nonce": each.wallet.next_nonce,
                "chain_next_nonce": each.counted,
                "high_water": each.high_water,
                "stated": each.is_stated,
                "fillers": list(each.fillers),
            }
            for each in plan.wallets
        ],
        "refunds": [
            {
                "id": each.refund.id,
                "created": each.record is not None,
                "sender": each.sender,
                "nonce": each.nonce,
                "cancelled": each.cancellation is not None,
            }
            for each in plan.refunds
        ],
        "incomplete": list(plan.incomplete),
        "problems": list(plan.problems),
    }


def restore_lines(
    plan: RestorePlan, read: EvidenceSummary, *, done: bool
) -> Iterator[str]:
    """Return *plan* for people."""
    yield from _log_lines(read)
    yield from _change_lines(plan)
    for refund_id in plan.incomplete:
        yield f"the gateway must request it again: {refund_id}"
    for problem in plan.problems:
        yield f"PROBLEM: {problem}"
    if plan.problems:
        yield "nothing was changed"
    elif plan.is_empty:
        yield "the ledger has everything: nothing to do"
    elif done:
        yield (
            "done: start a worker; `hotwallet nonce repair --dry-run` shows when the"
            " wallets have resumed"
        )


def _log_lines(read: EvidenceSummary) -> Iterator[str]:
    from api.views.refunds import timestamp

    for name, host in read.hosts.items():
        first, last = timestamp(host.first), timestamp(host.last)
        yield f"log of {name}: {host.lines} records, {first} to {last}"
    for count, why in (
        (read.without_mac, "have no MAC: an earlier release or a library wrote them"),
        (read.unknown_key, "have a MAC of a key that MAC_KEY_FILE does not have"),
        (read.forged, "have a wrong MAC: another program changed or wrote them"),
        (read.malformed, "are torn or malformed"),
    ):
        if count:
            yield f"lines that do not count: {count} {why}"


def _change_lines(plan: RestorePlan) -> Iterator[str]:
    for change in plan.key_changes:
        yield f"repeat {_describe(change)}"
    for network, reason in plan.stops.items():
        yield f"stop {network or 'everything'}: {reason}"
    for tenant in plan.blocked_tenants:
        yield f"block tenant {tenant}"
    for wallet in plan.wallets:
        yield _describe_wallet(wallet)
    counts = {
        "are created again": sum(each.record is not None for each in plan.refunds),
        "get their nonces back": sum(each.nonce is not None for each in plan.refunds),
        "will be cancelled": sum(
            each.cancellation is not None for each in plan.refunds
        ),
    }
    for what, count in counts.items():
        if count:
            yield f"refunds that {what}: {count}"


def _describe(change: KeyChange) -> str:
    compromised = ", as compromised" if change.compromised else ""
    previous = f" from {change.previous}" if change.previous else ""
    return f"{change.action} of {change.address}{previous}{compromised}"


def _describe_wallet(wallet: WalletPlan) -> str:
    stated = " (stated)" if wallet.is_stated else ""
    fillers = len(wallet.fillers)
    return (
        f"{wallet.network} {wallet.wallet.sender}: next nonce"
        f" {wallet.wallet.next_nonce}, the chain's {wallet.counted}, high-water mark"
        f" {wallet.high_water}{stated}; no-ops: {fillers}"
    )
