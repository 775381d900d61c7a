"""``hotwallet webhooks``, and ``hotwallet listen``, a receiver for development."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from api.actions.action import Answer, Values
from api.actions.refunds import REPLAY, REPLAY_DEAD
from api.cli.actions import Run, command_of
from api.cli.output import Result, prints, reports
from signer.errors import NotFoundError


if TYPE_CHECKING:
    from api.container import Container
    from signer.model.event import Delivery, Event
    from signer.ports.event_store import Backlog
    from signer.webhooks.signatures import VerifyingKey


_LIMIT = 50


@click.group()
def webhooks() -> None:
    """List, repeat and test the deliveries of events to tenants."""


@webhooks.command("list")
@click.option("--dead", is_flag=True, help="Only those that were given up.")
@click.option("--pending", is_flag=True, help="Only those that wait.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=_LIMIT, show_default=True
)
@reports
def list_deliveries(
    container: Container, dead: bool, pending: bool, limit: int
) -> Result:
    """Show how many deliveries wait, by tenant, and the newest ones."""
    from api.views.administration import delivery_of
    from signer.model.event import DeliveryState
    from signer.ports.event_store import DeliveryFilter

    if dead and pending:
        raise click.UsageError("use --dead or --pending, not both")
    state = DeliveryState.DEAD if dead else DeliveryState.PENDING if pending else None
    store = container.store
    wanted = DeliveryFilter(state=state)
    backlog, found = store.webhook_backlog(), store.deliveries(limit, wanted)
    document = {
        "tenants": [_backlog_document(each) for each in backlog],
        "deliveries": [delivery_of(*each).dump() for each in found],
    }
    return Result(document, _lines(backlog, found))


def _replay_dead(run: Run, values: Values) -> Answer:
    """Replay in steps, until none of the tenant is given up."""
    step, total = run(values), 0
    while not step.document.get("complete", True):
        total += step.document["count"]
        step = run(values)
    if "count" not in step.document:
        return step  # A dry run.
    tenant, total = values["tenant"], total + step.document["count"]
    return Answer({"tenant": tenant, "count": total}, [f"{tenant}: {total} due now"])


webhooks.add_command(command_of(REPLAY))
webhooks.add_command(command_of(REPLAY_DEAD, around=_replay_dead))


@webhooks.command()
@click.argument("tenant")
@reports
def test(container: Container, tenant: str) -> Result:
    """
    Send TENANT's webhook a signed event of the type `webhook.test`.

    Run it where the worker runs: it needs the same keys.  Exits with 1 if the receiver
    does not accept it.
    """
    from api.views.values import timestamp
    from signer.model.event import new_event_id

    endpoint = container.webhook_endpoints.get(tenant)
    if endpoint is None:
        raise NotFoundError(f"TENANTS_FILE has no webhook for the tenant {tenant!a}")
    now = container.clock()
    event_id = new_event_id(now)
    document = {
        "id": event_id,
        "type": "webhook.test",
        "timestamp": timestamp(now),
        "data": {"tenant": tenant},
    }
    problem = endpoint.send(container.webhook_sender, event_id, document, now)
    line = "accepted" if problem is None else f"not accepted: {problem}"
    result = {"tenant": tenant, "id": event_id, "problem": problem}
    return Result(result, [f"{tenant}: {line}"], ok=problem is None)


@webhooks.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--add", is_flag=True, help="Add a key to the file; all of them sign.")
@prints
def key(out: Path, add: bool) -> Result:
    """
    Create a key for WEBHOOK_SIGNING_KEY_FILE, and the public keys in FILE.pub.

    To replace it, --add a key, copy FILE.pub to the processes that serve refunds, and
    FILE to the workers; restart both, in this order.  When the receivers know the new
    key, remove the last line of each file and restart again.
    """
    from api.key_files import create_webhook_key

    try:
        new, public = create_webhook_key(out, add=add)
    except OSError as e:
        raise click.FileError(str(out), e.strerror) from None
    document = {
        "keyId": new.id,
        "publicKey": new.format(),
        "path": str(out),
        "publicKeysPath": str(public),
    }
    line = f"{'added' if add else 'created'} the key {new.id} in {out}: {new.format()}"
    return Result(document, [line, f"public keys: {public}"])


def _backlog_document(each: Backlog) -> dict[str, Any]:
    from api.views.values import timestamp

    return {
        "tenant": each.tenant,
        "pending": each.pending,
        "failing": each.failing,
        "dead": each.dead,
        "oldest": None if each.oldest is None else timestamp(each.oldest),
    }


def _lines(
    backlog: Sequence[Backlog], found: Sequence[tuple[Delivery, Event | None]]
) -> Iterator[str]:
    for tenant in backlog:
        yield (
            f"{_shown(tenant.tenant)}: {tenant.pending} pending,"
            f" {tenant.failing} of them failing, {tenant.dead} given up"
        )
    if not backlog:
        yield "nothing waits"
    for delivery, event in found:
        type_ = "not authentic" if event is None else str(event.type)
        problem = "" if delivery.problem is None else f" ({delivery.problem})"
        yield (
            f"{_shown(delivery.event_id)} {_shown(delivery.tenant)} {type_}"
            f" {_shown(delivery.refund_id)}: {delivery.state}, {delivery.attempts}"
            f" attempts{_shown(problem)}"
        )


def _shown(text: str) -> str:
    # Another program may have inserted a row with any text.
    return text if text.isprintable() else ascii(text)


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
    is_done = threading.Event()

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
    threading.Thread(target=listener.serve_forever, daemon=True).start()
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
