"""``hotwallet restore``: give a restored ledger back what the log knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from api.cli.operator import REASON, identified_operator
from api.cli.options import confirmed
from api.cli.output import Result, reports
from signer.errors import ConfigurationError, InvalidInputError, Refusal


if TYPE_CHECKING:
    from api.container import Container
    from api.extras.restore.evidence import Evidence, EvidenceSummary
    from api.extras.restore.plan import KeyChange, RestorePlan, WalletPlan
    from signer.ports.audit_journal import Journal


_SCOPE = "nonces:repair"

_MOST_DIGITS = 15


class _Log(click.Path):
    """A file, or the URL of a shipped log, which stays a text."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if isinstance(value, str) and "://" in value:
            return value
        return super().convert(value, param, ctx)


@click.command()
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=_Log(exists=True, dir_okay=False, path_type=Path),
    help="A log of a host, an audit export, or the URL of the shipped log; repeat it"
    " for all.  The default is AUDIT_SHIP_TO.",
)
@click.option(
    "--high-water",
    "marks",
    multiple=True,
    metavar="NETWORK:ADDRESS=NONCE",
    help="How many transactions the wallet has signed, if the log cannot say.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY_ID",
    help="A key that was rotated to since the backup; the configured one is known.",
)
@REASON
@confirmed("Change the ledger as --dry-run shows, and pause its wallets until then?")
@reports
def restore(
    container: Container,
    logs: Sequence[Path | str],
    marks: Sequence[str],
    keys: Sequence[str],
    reason: str,
    *,
    dry_run: bool,
) -> Result:
    """
    Complete a ledger that was restored from a backup, before anything new is paid.

    Run it while no other process of the service runs.  The log has what the ledger has
    lost: key changes, stops, refunds, cancellations, and each nonce that was signed.
    Unknown nonces are used up by transactions that pay nothing.  Wallets resume when
    every nonce that was ever signed is final.

    Without a log, state the high-water mark of each wallet.  A mark that is too low can
    pay a refund twice; one that is too high costs the gas of a few transactions.

    Exits with 1 if something is missing, which it names.  Repeating it is safe.
    """
    from api.backend_factories import open_checkpoint_key, open_row_macs
    from api.extras.restore.evidence import read_evidence
    from api.extras.restore.planner import RestorePlanner
    from api.extras.restore.restorer import open_restorer
    from signer.audit.checkpoints import Verifier

    shipped = container.environ.get("AUDIT_SHIP_TO", "").strip()
    if not logs and shipped:
        logs = [shipped]
    if not logs and not marks:
        raise click.UsageError(
            "pass the logs of all hosts with --log, or without any log the marks of all"
            " wallets with --high-water"
        )
    stated = _parse_marks(marks)
    unknown = {network for network, _ in stated} - container.chains.keys()
    if unknown:
        raise InvalidInputError(
            f"there is no network {min(unknown)} in the networks file",
            field="high_water",
        )
    macs = open_row_macs(container.settings)
    if macs is None:
        raise ConfigurationError(Refusal("mac-key-invalid", "MAC_KEY_FILE is not set"))
    signing = open_checkpoint_key(container.settings)
    trusted = [] if signing is None else [signing.key.public_pem()]
    evidence = read_evidence(logs, macs, Verifier(*trusted))
    gaps = [*_find_gaps(evidence, container.store)]
    key_ids = [*keys, container.key_name]
    planner = RestorePlanner(
        container.store, container.chains, container.tenants, container.ledger_clock
    )

    def make_plan() -> RestorePlan:
        return planner.plan(
            evidence.records, stated, key_ids, has_log=bool(logs) and not gaps
        )

    plan = make_plan()
    if not stated:  # Otherwise those of all wallets are needed, and fill the gaps.
        plan = replace(plan, problems=[*gaps, *plan.problems])
    done = not (dry_run or plan.problems or plan.is_empty)
    if done:
        operator = identified_operator(container, _SCOPE, reason)
        open_restorer(container).restore(plan, key_ids, operator, make_plan)
    return Result(
        restore_document(plan, evidence.summary, done=done),
        restore_lines(plan, evidence.summary, done=done),
        not plan.problems,
    )


def _find_gaps(evidence: Evidence, journal: Journal) -> Iterator[str]:
    """Yield why *evidence* may lack a nonce that was signed."""
    for name in evidence.summary.damaged:
        if "://" in name:
            remedy = "pass the logs of all hosts with --log"
            yield f"{name} has a gap, which `audit verify --against` shows: {remedy}"
        else:
            yield f"{name} is damaged: copy it again"
    missing = len(journal.missing_records(evidence.unverified))
    if missing:
        yield (
            f"the ledger lacks {missing} records whose lines do not count: pass other"
            " copies of the logs, or an export, and put old keys back into MAC_KEY_FILE"
        )


def _parse_marks(texts: Sequence[str]) -> Mapping[tuple[str, str], int]:
    marks = dict[tuple[str, str], int]()
    for wallet, nonce in map(_parse_mark, texts):
        if marks.setdefault(wallet, nonce) != nonce:
            raise InvalidInputError(
                f"has two values for {wallet[0]}:{wallet[1]}", field="high_water"
            )
    return marks


def _parse_mark(text: str) -> tuple[tuple[str, str], int]:
    from signer.addresses import parse_address

    wallet, _, nonce = text.rpartition("=")
    network, _, address = wallet.partition(":")
    if not (
        network and nonce.isascii() and nonce.isdigit() and len(nonce) <= _MOST_DIGITS
    ):
        raise InvalidInputError(
            "must be NETWORK:ADDRESS=NONCE, for example mainnet:0x52908400098527886E0F"
            "7030069857D2E4169EE7=1042",
            field="high_water",
        )
    return (network, parse_address(address, field="high_water")), int(nonce)


def restore_document(
    plan: RestorePlan, read: EvidenceSummary, *, done: bool
) -> dict[str, Any]:
    """Return *plan*, and what was *read* from the log, as JSON."""
    from api.views.values import fields

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
            fields(each, "action", "address", "key", "previous", "compromised")
            for each in plan.key_changes
        ],
        "stops": [
            {"network": network, "token": token, "reason": reason}
            for (network, token), reason in plan.stops.items()
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
    from api.views.values import timestamp

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
    for (network, token), reason in plan.stops.items():
        of_token = f", token {token}" if token else ""
        yield f"stop {network or 'everything'}{of_token}: {reason}"
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
