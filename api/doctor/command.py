"""``hotwallet doctor``: from the settings to a mined transaction, rung by rung."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator

import click

from api.doctor.checks import Check, CheckResult, State, run_checks
from api.doctor.context import DoctorContext, Openers
from api.doctor.network_checks import network_steps
from api.doctor.system_checks import steps
from api.logs import install


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """
    Look at everything that a refund needs, and say what is broken and how to mend it.

    Nothing is paid.  A signature is made that is of no use to anybody, and the audit
    has it.  Exits with 1 if a rung failed.
    """
    from api.bootstrap import (  # noqa: PLC0415  Help needs no backend.
        open_backend,
        open_chains,
        open_store,
    )

    openers = Openers(open_store, open_backend, open_chains)
    answers = sys.stdout
    rungs = []
    with contextlib.redirect_stdout(sys.stderr):  # The answer alone goes to stdout.
        install()
        for rung in run_checks(examination(DoctorContext(os.environ, openers))):
            rungs.append(rung)
            if not as_json:
                click.echo("\n".join(told(rung)), file=answers)
    well = not any(rung.state is State.FAILED for rung in rungs)
    if as_json:
        document = {"ok": well, "rungs": [rung.to_json() for rung in rungs]}
        click.echo(json.dumps(document))
    if not well:
        sys.exit(1)


def examination(patient: DoctorContext) -> Iterator[Check]:
    """Yield all that is to be looked at, each step made when it is come to."""
    yield from steps(patient)
    yield from network_steps(patient)


def told(rung: CheckResult) -> Iterator[str]:
    """Yield the lines that a person reads."""
    yield f"{rung.state:8} {rung.name:18} {rung.said}"
    if rung.cure is not None:
        yield f"{'':8} {'':18} -> {rung.cure}"
