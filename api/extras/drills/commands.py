"""``hotwallet drill``: play an emergency on a staging service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from api.cli.options import (
    confirm,
    dry_run_option,
    errors_exit_with_2,
    staging_chains_option,
    staging_recipient_option,
    yes_option,
)
from api.cli.output import Result, command_logging, prints
from api.extras.drills.runbooks import load_runbooks, steps_of


def _read_variables(
    _: click.Context, __: click.Parameter, texts: Sequence[str]
) -> dict[str, str]:
    pairs = [each.partition("=") for each in texts]
    for name, _equals, value in pairs:
        if not name.isidentifier() or not value:
            raise click.BadParameter("must be NAME=VALUE")
    return {name: value for name, _, value in pairs}


@click.command()
@click.argument("name", type=click.Choice([*load_runbooks()]))
@click.option(
    "--staging",
    "url",
    metavar="URL",
    required=True,
    help="The URL of the deployment, whose settings of `admin` this process has.",
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="A token of a tenant, with the role merchant; it is read for each step.",
)
@staging_recipient_option
@staging_chains_option
@click.option(
    "--set",
    "given",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_read_variables,
    help="A variable of the guide, such as NEW_KEY_ID; repeat it.",
)
@click.option(
    "--hooks",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with a program for each step that a person does, named as the step.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=180.0,
    show_default=True,
    help="How many seconds a step may take to have its effect.",
)
@click.option(
    "--out",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The evidence, by default drill-NAME.json; an interrupted run continues.",
)
@yes_option
@dry_run_option
@prints
def drill(
    name: str, url: str, path: Path | None, *, yes: bool, dry_run: bool, **options: Any
) -> Result:
    """
    Play an emergency on the deployment at URL, step by step as its guide says.

    It runs the commands of the guide, asks a person for the other steps, checks by the
    chain, the ledger and the API that each had its effect, and measures its time.  The
    digest of the evidence is in the audit log, as drill-run-succeeded or -refused.

    Exits with 1 if a step had no effect, 2 if the drill cannot be played.
    """
    from api.extras.drills.drill import Drill

    if dry_run:
        steps = [(each.name, each.command or "a person") for each in steps_of(name)]
        return Result(dict(steps), [f"{step}: {by}" for step, by in steps])
    path = path or Path(f"drill-{name}.json")
    with errors_exit_with_2(), command_logging():
        played = Drill(
            name=name,
            url=url,
            path=path,
            is_sure=yes,
            **options,
        )
        if not played.load() and not yes:
            confirm(f"Play the emergency {name!r} on {url}?")
        played.require_possible()
        click.echo(played.begin(), err=True)
        is_good = played.play(lambda line: click.echo(line, err=True))
        digest = played.record()
    document = {"ok": is_good, "digest": digest, **played.evidence}
    return Result(document, _lines(played.evidence, path, digest), is_good)


def _lines(evidence: Mapping[str, Any], path: Path, digest: str) -> Iterator[str]:
    for each in evidence["steps"]:
        yield f"{each['result']}  {each['step']}: {each['seconds']:.1f} s"
        if "problem" in each:
            yield f"        {each['problem']}"
    for each in evidence["remains"]:
        yield f"remains: {each}"
    yield f"{path}: sha256 {digest}, which the audit log has"
