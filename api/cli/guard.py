"""Checks: ``hotwallet guard``, ``health``, ``secrets`` and ``explain-code``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from api.cli.output import (
    Result,
    command_logging,
    json_option,
    print_result,
    prints,
    reports,
)
from api.views.codes import load_codes
from signer.errors import ConfigurationError, NotFoundError


if TYPE_CHECKING:
    from api.container import Container
    from api.health.secrets import FoundSecret
    from signer.config.settings import Settings


@click.command()
@json_option
def guard(as_json: bool) -> None:
    """
    Check whether the service would start, and list every reason why not.

    Exits with 78 if the guard refuses, or 77 if a token refuses the PIN; `hotwallet
    explain-code CODE` explains a code.
    """
    from api.bootstrap import open_container

    try:
        with command_logging():
            container = open_container()
            active = container.store.active_key()
    except ConfigurationError as e:
        if as_json:
            refusals = [{"code": r.code, "message": r.message} for r in e.refusals]
            click.echo(json.dumps({"ok": False, "refusals": refusals}))
        raise
    environment = container.settings.app_env
    address = active.address if active else None
    if not as_json:
        for warning in container.warnings:
            click.echo(f"warning: {warning}", err=True)
    document = {
        "ok": True,
        "environment": environment,
        "role": container.settings.serve_role,
        "address": address,
        "networks": sorted(container.networks),
        "configuration": container.configuration.hash,
        "warnings": list(container.warnings),
    }
    lines = [
        f"ok: {environment}, {_describe_role(container.settings, address)}",
        f"configuration: {container.configuration.hash}",
    ]
    print_result(document, lines, as_json=as_json)


def _describe_role(settings: Settings, address: str | None) -> str:
    if settings.serve_role.has_key:
        return f"signing for {address}"
    return "accepting refunds, without a key"


_DEFAULT_BIND = "127.0.0.1:8080"
_ALIVE_SECONDS = 2.0  # Less than the timeout of the health check in docker/Dockerfile.
_READY_SECONDS = 6.0  # /readyz answers within 5 s.
_OK = 200


@click.command()
@click.option(
    "--ready", is_flag=True, help="Ask /readyz: also database, key, nodes and worker."
)
def health(ready: bool) -> None:
    """
    Ask the API of this host, at BIND, whether it answers.

    Exits with 1 if it does not within 2 seconds (with --ready: 6), or answers another
    status than 200.  A worker listens nowhere: /readyz of the API reports it.

    Example: hotwallet health --ready
    """
    from api.server.probe import ask

    path, seconds = (
        ("/readyz", _READY_SECONDS) if ready else ("/healthz", _ALIVE_SECONDS)
    )
    bind = os.environ.get("BIND", "").strip() or _DEFAULT_BIND
    try:
        status, answer = ask(bind, path, seconds)
    except ValueError as e:
        raise click.UsageError(f"BIND is {e}") from None
    except OSError as e:
        click.echo(f"nothing answers at BIND ({type(e).__name__})", err=True)
        sys.exit(1)
    click.echo(answer)
    if status != _OK:
        sys.exit(1)


_KINDS = {
    "refusal": "guard refusal",
    "error": "error",
    "http": "HTTP error",
    "alert": "alert",
    "failure": "reason of a refund",
    "difference": "difference between ledger and chain",
}


@click.command("explain-code")
@click.argument("code", required=False)
@prints
def explain_code(code: str | None) -> Result:
    """
    Explain CODE: a refusal of the guard, an error, the reason of a refund that was not
    paid, an alert, or a difference between ledger and chain; without CODE, list all.

    Example: hotwallet explain-code kms-not-configured
    """
    codes = load_codes()
    if code is None:
        lines = (f"{each['code']:26} {each['title']}" for each in codes)
        return Result(codes, lines)
    entries = [each for each in codes if each["code"] == code.strip().lower()]
    if not entries:
        raise NotFoundError("there is no such code; omit CODE to list all codes")
    return Result(entries, _format_entries(entries))


def _format_entries(entries: Sequence[Mapping[str, str]]) -> Iterator[str]:
    for entry in entries:
        yield f"{entry['code']} ({_KINDS[entry['kind']]}): {entry['title']}"
        yield f"  Meaning: {entry['meaning']}"
        yield f"  Cure:    {entry['cure']}"


@click.command()
@reports
def secrets(container: Container) -> Result:
    """
    List the secrets of this host, with their ages.

    Run it with the settings of each process: API and workers have different ones.  It
    shows no value, and exits with 1 if one should have been replaced.
    """
    from api.health.secrets import find_secrets

    now = container.ledger_clock()
    found = list(find_secrets(container.environ, container.store.active_key()))
    document = [_document(each, now) for each in found]
    lines = [_line(each, now) for each in found]
    return Result(document, lines, ok=not any(each.is_due(now) for each in found))


def _document(found: FoundSecret, now: datetime) -> dict[str, Any]:
    age = found.age(now)
    return {
        "name": found.secret.name,
        "variable": found.secret.variable or None,
        "place": found.place,
        "ageDays": None if age is None else age.days,
        "replaceAfterDays": found.secret.days,
        "due": found.is_due(now),
        "protects": found.secret.protects,
    }


def _line(found: FoundSecret, now: datetime) -> str:
    secret, age = found.secret, found.age(now)
    days = "of unknown age" if age is None else f"{age.days} days old"
    place = f"{secret.variable}, {found.place}" if secret.variable else found.place
    line = f"{secret.name} ({place}): {days}, replace after {secret.days}"
    return f"{line}; replace it now" if found.is_due(now) else line
