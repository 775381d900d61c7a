"""``hotwallet restore``: give a restored ledger back what the log knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.cli.confirmation import confirmed
from api.cli.operator import REASON, identified_operator
from api.cli.output import Result, reports
from signer.errors import ConfigurationError, InvalidInputError, Refusal


if TYPE_CHECKING:
    from signer.ports.audit_journal import Journal
    from signer.restore.evidence import Evidence
    from signer.restore.plan import RestorePlan


_SCOPE = "nonces:repair"

_MOST_DIGITS = 15

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=_FILE,
    help="A log of a host, or an audit export; repeat it for all hosts.",
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
    logs: Sequence[Path],
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
    from api.bootstrap import build_container
    from api.mac_key import open_row_macs
    from api.views.restores import restore_document, restore_lines
    from signer.restore.evidence import read_evidence

    if not logs and not marks:
        raise click.UsageError(
            "pass the logs of all hosts with --log, or without any log the marks of all"
            " wallets with --high-water"
        )
    container = build_container()
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
    evidence = read_evidence(logs, macs)
    gaps = [*_find_gaps(evidence, container.store)]
    key_ids = [*keys, container.key_name]

    def make_plan() -> RestorePlan:
        return container.restore_planner.plan(
            evidence.records, stated, key_ids, has_log=bool(logs) and not gaps
        )

    plan = make_plan()
    if not stated:  # Otherwise those of all wallets are needed, and fill the gaps.
        plan = replace(plan, problems=[*gaps, *plan.problems])
    done = not (dry_run or plan.problems or plan.is_empty)
    if done:
        operator = identified_operator(container, _SCOPE, reason)
        container.restorer.restore(plan, key_ids, operator, make_plan)
    return Result(
        restore_document(plan, evidence.summary, done=done),
        restore_lines(plan, evidence.summary, done=done),
        not plan.problems,
    )


def _find_gaps(evidence: Evidence, journal: Journal) -> Iterator[str]:
    """Yield why *evidence* may lack a nonce that was signed."""
    for name in evidence.summary.damaged:
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
