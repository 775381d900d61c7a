"""``hotwallet listen``: a receiver of webhooks on this host, for development."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click


if TYPE_CHECKING:
    from signer.webhooks.signatures import VerifyingKey


_PORT = 4242

_THIS_HOST = frozenset({"127.0.0.1", "localhost"})

_file = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="On 127.0.0.1; by default that of a webhook in TENANTS_FILE, or else 4242.",
)
@click.option("--secret-file", type=_file, help="The tenant's secret_file.")
@click.option(
    "--public-keys-file", type=_file, help="By default WEBHOOK_PUBLIC_KEYS_FILE."
)
@click.option("--count", type=click.IntRange(min=1), help="Exit after so many events.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as JSON.")
def listen(
    port: int | None,
    secret_file: Path | None,
    public_keys_file: Path | None,
    count: int | None,
    as_json: bool,
) -> None:
    """
    Print the events that the webhook http://127.0.0.1:PORT/ receives.

    Each event is verified first.  Outside production, `url = "http://127.0.0.1:4242/"`
    as a tenant's `webhook` in TENANTS_FILE sends them here.
    """
    from api.server.webhook_listener import WebhookListener
    from signer.ports.clock import utc_now

    received: list[str] = []
    is_done = Event()

    def receive(message: dict[str, Any]) -> None:
        click.echo(json.dumps(message) if as_json else _format(message))
        received.append(message["id"])
        if len(received) == count:
            is_done.set()

    def refuse(problem: str) -> None:
        click.echo(f"refused: {problem}", err=True)

    keys = _read_keys(secret_file, public_keys_file)
    try:
        listener = WebhookListener(
            _find_port() if port is None else port,
            keys,
            utc_now,
            receive=receive,
            refuse=refuse,
        )
    except OSError as e:
        raise click.ClickException(
            f"the port cannot be used ({e.strerror}): choose another with --port"
        ) from None
    click.echo(f"listening on http://127.0.0.1:{listener.port}/", err=True)
    Thread(target=listener.serve_forever, daemon=True).start()
    try:
        is_done.wait()
    finally:
        listener.shutdown()
        listener.server_close()  # After the last response.


def _find_port() -> int:
    from signer.config.settings import Settings
    from signer.config.tenants import load_tenants

    tenants = load_tenants(Settings.from_env(os.environ).tenants_file)
    urls = [urlsplit(each.url) for each in tenants.webhooks().values()]
    local = [each.port for each in urls if each.hostname in _THIS_HOST and each.port]
    return local[0] if local else _PORT


def _read_keys(
    secret_file: Path | None, public_keys_file: Path | None
) -> Sequence[VerifyingKey]:
    from api.key_files import open_public_keys
    from signer.config.settings import Settings
    from signer.webhooks.signatures import read_public_keys, read_secrets

    try:
        if secret_file is not None:
            return read_secrets(secret_file)
        if public_keys_file is not None:
            return read_public_keys(public_keys_file)
    except ValueError as e:
        raise click.UsageError(f"the file has no usable keys: {e}") from None
    keys = open_public_keys(Settings.from_env(os.environ))
    if not keys:
        raise click.UsageError(
            "no key verifies the events: use --public-keys-file or --secret-file"
        )
    return keys


def _format(message: dict[str, Any]) -> str:
    data = message.get("data", {})
    facts = [
        str(message.get("timestamp", "")),
        str(message.get("type", "")),
        *(str(data[name]) for name in ("id", "amount", "token") if data.get(name)),
        f"({message.get('id', '')}, verified)",
    ]
    return " ".join(each if each.isprintable() else ascii(each) for each in facts)
