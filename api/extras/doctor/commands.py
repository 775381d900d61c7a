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
    from api.extras.doctor.key_checks import DoctorContext
    from signer.diagnostics import Check, CheckResult


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
    from api.extras.doctor.key_checks import DoctorContext
    from api.logs import install
    from api.views.values import fields
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


def all_checks(context: DoctorContext) -> Iterator[Check]:
    """Yield every check; later ones depend on what the earlier ones have found."""
    from api.extras.doctor.network_checks import network_checks
    from api.extras.doctor.system_checks import system_checks

    yield from system_checks(context)
    yield from network_checks(context)


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
