"""``hotwallet doctor``: check everything that a refund needs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from api.cli.output import json_option, redirect_log
from signer.errors import ConfigurationError


if TYPE_CHECKING:
    from api.container import Container
    from signer.diagnostics import CheckResult


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """
    Check everything that a refund needs; report what is broken and how to repair it.

    No transaction is sent.  The key signs a self-test message of no value, which the
    audit log records.

    Exits with 1 if a check failed.
    """
    from api.bootstrap import build_container
    from api.doctor import all_checks
    from api.doctor.context import DoctorContext
    from api.logs import install
    from api.views.refunds import fields
    from signer.diagnostics import State, run_checks

    stdout = sys.stdout
    results = []
    container = build_container()
    with redirect_log():
        install()
        for result in run_checks(all_checks(DoctorContext(container))):
            results.append(result)
            if not as_json:
                click.echo("\n".join(_lines(result, container)), file=stdout)
    ok = all(result.state is not State.FAILED for result in results)
    if as_json:
        rungs = [
            {
                "said": result.detail,
                **fields(result, "name", "state", "cure", "code"),
                "runbook": _find_runbook(result, container),
            }
            for result in results
        ]
        click.echo(json.dumps({"ok": ok, "rungs": rungs}))
    if not ok:
        sys.exit(1)


def _lines(result: CheckResult, container: Container) -> Iterator[str]:
    yield from result.lines()
    runbook = _find_runbook(result, container)
    if runbook is not None:
        yield f"{'':8} {'':18} -> {runbook}"


def _find_runbook(result: CheckResult, container: Container) -> str | None:
    """Return the link to the runbook of the problem, if it is one with an alert."""
    from signer.alerts import RUNBOOKS, Alert, find_runbook

    if result.code not in set(Alert):
        return None
    try:
        page = container.settings.runbook_url or RUNBOOKS
    except ConfigurationError:
        page = RUNBOOKS
    return find_runbook(str(result.code), page)
