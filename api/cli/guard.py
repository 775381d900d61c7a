"""``hotwallet guard``: run the start-up checks alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from api.cli.output import command_logging, json_option, print_result
from signer.errors import ConfigurationError


if TYPE_CHECKING:
    from signer.config.settings import Settings


@click.command()
@json_option
def guard(as_json: bool) -> None:
    """
    Check whether the service would start, and list every reason why not.

    Exits with 78 if the guard refuses; `hotwallet explain-code CODE` explains a code.
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
