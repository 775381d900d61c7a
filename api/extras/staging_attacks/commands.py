"""``hotwallet attack``: attack a staging deployment, and report what succeeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.cli.options import (
    errors_exit_with_2,
    staging_chains_option,
    staging_recipient_option,
)
from api.cli.output import Result, prints


if TYPE_CHECKING:
    from api.extras.staging_attacks.attacks import Report

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--staging",
    "url",
    metavar="URL",
    required=True,
    help="The public URL of a deployment that may be attacked.",
)
@click.option(
    "--token-file",
    type=_FILE,
    required=True,
    help="A token of a tenant, with the role merchant.",
)
@click.option(
    "--other-token-file",
    type=_FILE,
    required=True,
    help="A token of another tenant, with the same role.",
)
@staging_recipient_option
@staging_chains_option
@prints
def attack(
    url: str,
    token_file: Path,
    other_token_file: Path,
    recipient: str,
    chain_ids: Sequence[int],
) -> Result:
    """
    Attack the deployment at URL as clients, tenants and strangers would.

    It pays two refunds, sends some hundred bad requests, and holds connections open.
    Each attack belongs to a section of the threat model.

    Exits with 1 if an attack succeeds, 2 if they cannot be tried.
    """
    with errors_exit_with_2():
        from api.extras.staging_attacks.attacks import run_attacks
        from api.extras.staging_attacks.target import Target

        tokens = [
            path.read_text("utf-8").strip() for path in (token_file, other_token_file)
        ]
        target = Target(url, tokens[0], tokens[1], recipient)
        target.require_usable(chain_ids)
        reports = []
        for report in run_attacks(target):
            click.echo(f"tried {report.attack.name}", err=True)
            reports.append(report)
    is_good = not any(each.weaknesses for each in reports)
    document = {
        "ok": is_good,
        "attacks": [
            {
                "name": each.attack.name,
                "threat": each.attack.threat,
                "expected": each.attack.expected,
                "weaknesses": each.weaknesses,
            }
            for each in reports
        ],
    }
    return Result(document, _lines(reports), is_good)


def _lines(reports: Sequence[Report]) -> Iterator[str]:
    for report in reports:
        state = "FAILED" if report.weaknesses else "passed"
        yield f"{state}  {report.attack.name}: {report.attack.expected}"
        for weakness in report.weaknesses:
            yield f"        {weakness}"
            yield f"        -> docs/explanation/threat-model.md#{report.attack.threat}"
    failed = sum(bool(each.weaknesses) for each in reports)
    yield f"{len(reports)} attacks, {failed} succeeded"
