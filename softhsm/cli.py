"""``hotwallet softhsm``: commands for the project's token."""

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
from signer.diagnostics import State, run_checks
from signer.errors import BackendError
from signer.ports.clock import utc_now
from signer.ports.key_backend import KeyId
from signer.private_files import write_whole
from softhsm.layout import Layout
from softhsm.plugin import prepare


if TYPE_CHECKING:
    from backends.pkcs11 import PKCS11Backend

# Commands import the backend when they run, so that help needs no cryptography.

_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON."
)


@click.group()
def softhsm() -> None:
    """
    Manage this project's SoftHSM token, for development and tests.

    The token is in HOTWALLET_HOME/softhsm.
    """


@softhsm.command()
@click.option(
    "--label", default="hotwallet", show_default=True, help="The new key's label."
)
@_json_option
def init(label: str, as_json: bool) -> None:
    """
    Create a token, and in it a key that cannot be extracted; safe to repeat.

    Prints the environment variables that let any process sign with the key.

    Example: eval "$(hotwallet softhsm init | grep ^export)"
    """
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
@_json_option
def list_keys(as_json: bool) -> None:
    """List the token's keys with their ids, labels, addresses and attributes."""
    from softhsm import keys  # noqa: PLC0415  See above.

    try:
        found = keys.list_keys(_backend(_settings()))
    except BackendError as e:
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
    help="File with the private key in hex; without it, standard input is read.",
)
@click.option(
    "--label", default="imported", show_default=True, help="The imported key's label."
)
@_json_option
def import_key(path: Path | None, label: str, as_json: bool) -> None:
    """
    Import a raw private key into the token.

    Afterwards destroy every other copy of the key.  A file must be readable by its
    owner only.

    Example: hotwallet softhsm import --file key.hex
    """
    from softhsm import keys, provision  # noqa: PLC0415  See above.

    # A core dump of this process could contain the key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    settings = _settings()
    secret = keys.read_key(path)
    key_id = KeyId(settings.pkcs11_key_id)
    module = _module(settings)
    with Layout.of(settings.home).locked():
        backend = provision.ensure_token(settings, module)
        address = keys.import_key(backend, key_id, label, secret)
    if as_json:
        click.echo(json.dumps({"address": address, "key_id": key_id}))
        return
    click.echo(f"The token signs for {address} with key {key_id}.")
    click.echo(f"Now unset {RAW_KEY}, and destroy every other copy of the key.")


@softhsm.command()
@_json_option
def doctor(as_json: bool) -> None:
    """
    Check the token, from the PKCS#11 module to a signature.

    Exits with 1 if a check failed.
    """
    from softhsm.doctor import token_checks  # noqa: PLC0415  See above.

    results = list(run_checks(token_checks(_settings())))
    if as_json:
        document = [{**asdict(result), "cure": result.cure or ""} for result in results]
        click.echo(json.dumps(document, indent=2))
    for result in () if as_json else results:
        click.echo("\n".join(result.lines()))
    if any(result.state is State.FAILED for result in results):
        sys.exit(1)


@click.group()
def hsm() -> None:
    """Prove that production may sign with the key of a PKCS#11 device."""


@hsm.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file of the report, in JSON.",
)
@click.option(
    "--signatures",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="How many signatures to make over random digests.",
)
@_json_option
def prove(out: Path, signatures: int, as_json: bool) -> None:
    """
    Examine the configured device and key, and write a report.

    It has no PIN, label, serial number or path.  Exits with 1 if production refuses the
    key.

    Example: hotwallet hsm prove --out report.json
    """
    from softhsm.doctor import lines, make_report  # noqa: PLC0415  See above.

    report = make_report(_settings(), utc_now(), signatures)
    document = json.dumps(report, indent=2)
    write_whole(out, f"{document}\n".encode())
    for line in [document] if as_json else lines(report):
        click.echo(line)
    if not report["is_proved"]:
        sys.exit(1)


def _module(settings: Settings) -> Path:
    from softhsm import library  # noqa: PLC0415  See above.

    layout = Layout.of(settings.home)
    with layout.locked():
        return library.find_module(settings) or library.install(layout, _print_progress)


def _backend(settings: Settings) -> "PKCS11Backend":
    from backends.pkcs11 import PKCS11Backend  # noqa: PLC0415  See above.

    module, pin = prepare(settings)
    return PKCS11Backend(module, settings.pkcs11_token_label, pin)


def _settings() -> Settings:
    return Settings.from_env(os.environ)


def _print_progress(line: str) -> None:
    click.echo(line, err=True)
