"""``hotwallet doctor``: check everything that a refund needs."""

import json
import sys

import click

from api.bootstrap import build_container
from api.cli.output import json_option, redirect_log
from api.doctor import all_checks
from api.doctor.context import DoctorContext
from api.logs import install
from api.views.refunds import fields
from signer.checks import State, run_checks


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """
    Check everything that a refund needs; report what is broken and how to repair it.

    No transaction is sent.  The key signs a self-test message of no value, which the
    audit log records.

    Exits with 1 if a check failed.
    """
    stdout = sys.stdout
    results = []
    with redirect_log():
        install()
        for result in run_checks(all_checks(DoctorContext(build_container()))):
            results.append(result)
            if not as_json:
                click.echo("\n".join(result.lines()), file=stdout)
    ok = all(result.state is not State.FAILED for result in results)
    if as_json:
        rungs = [
            {"said": result.detail, **fields(result, "name", "state", "cure")}
            for result in results
        ]
        click.echo(json.dumps({"ok": ok, "rungs": rungs}))
    if not ok:
        sys.exit(1)
