"""``hotwallet softhsm``: the commands, and nothing that they decide."""

import json
import os
import resource
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from signer.config.settings import RAW_KEY, Settings
from signer.errors import BackendError
from signer.ports import KeyId
from softhsm import Layout, prepare


if TYPE_CHECKING:
    from backends.pkcs11 import PKCS11Backend

# python-pkcs11 and what it loads come with the command that needs them, so that
# ``hotwallet --help`` stays quick, and works where there is no SoftHSM.

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def softhsm() -> None:
    """Make and look after the SoftHSM token of this project."""


@softhsm.command()
@click.option("--label", default="hotwallet", show_default=True, help="The key's.")
@_json
def init(label: str, as_json: bool) -> None:
    """Make a token, and a key that cannot leave it; safe to repeat."""
    from softhsm import provision  # noqa: PLC0415  See above.

    settings = _settings()
    wallet = provision.init(settings, _module(settings), label=label)
    variables = wallet.environment()
    if as_json:
        facts = {"address": wallet.address, "key_id": wallet.key_id}
        facts |= {"module": str(wallet.module), "token": wallet.token_label}
        click.echo(json.dumps({**facts, "environment": variables}, indent=2))
        return
    click.echo(f"address  {wallet.address}")
    click.echo(f"key id   {wallet.key_id}")
    click.echo(f"token    {wallet.token_label}")
    click.echo(f"module   {wallet.module}\n")
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")


@softhsm.command("list")
@_json
def list_keys(as_json: bool) -> None:
    """List the token's keys with their ids, labels, addresses and attributes."""
    from softhsm import keys  # noqa: PLC0415  See above.

    try:
        found = keys.listed(_backend(_settings()))
    except BackendError as e:
        # It climbs rung by rung, and says what to do, such as init.
        raise type(e)(f"{e}; run: hotwallet softhsm doctor") from None
    if as_json:
        click.echo(json.dumps([asdict(key) for key in found], indent=2))
        return
    for key in found:
        click.echo(f"{key.key_id}  {key.label}  {key.address or 'no secp256k1 pair'}")
        flags = [name for name, value in key.attributes.items() if value]
        click.echo(f"    {' '.join(flags)}")


@softhsm.command("import")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The file with the key, in hex; standard input otherwise.",
)
@click.option("--label", default="imported", show_default=True, help="The key's.")
@_json
def import_key(path: Path | None, label: str, as_json: bool) -> None:
    """Move a raw private key into the token, so that its copies can go."""
    from softhsm import import_key as importing  # noqa: PLC0415  See above.
    from softhsm import provision  # noqa: PLC0415  See above.

    # Whatever happens, no core file shall hold the key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    settings = _settings()
    secret = importing.read_key(path)
    key_id = KeyId(settings.pkcs11_key_id)
    module = _module(settings)
    with Layout.of(settings.home).locked():
        backend = provision.provide_token(settings, module)
        address = importing.import_key(backend, key_id, label, secret)
    if as_json:
        click.echo(json.dumps({"address": address, "key_id": key_id}))
        return
    click.echo(f"The token signs for {address} with key {key_id}.")
    click.echo(f"Now unset {RAW_KEY}, and destroy every other copy of the key.")


@softhsm.command()
@_json
def doctor(as_json: bool) -> None:
    """Find out what is wrong; the exit status is 1 if anything is."""
    from softhsm.doctor import examine  # noqa: PLC0415  See above.

    rungs = examine(_settings())
    if as_json:
        click.echo(json.dumps([asdict(rung) for rung in rungs], indent=2))
    else:
        for rung in rungs:
            click.echo(f"{rung.state:8} {rung.name:8} {rung.detail}")
            if rung.cure:
                click.echo(f"{'':8} {'':8} -> {rung.cure}")
    if any(rung.state == "failed" for rung in rungs):
        sys.exit(1)


def _module(settings: Settings) -> Path:
    from softhsm import fetch, library  # noqa: PLC0415  See above.

    layout = Layout.of(settings.home)
    with layout.locked():
        return library.find(settings) or fetch.obtain(layout, _say)


def _backend(settings: Settings) -> "PKCS11Backend":
    from backends.pkcs11 import PKCS11Backend  # noqa: PLC0415  See above.

    module, pin = prepare(settings)
    return PKCS11Backend(module, settings.pkcs11_token_label, pin)


def _settings() -> Settings:
    return Settings.from_env(os.environ)


def _say(line: str) -> None:
    click.echo(line, err=True)
