"""``hotwallet init``: write a configuration to start from."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from api.bootstrap import check_configuration
from api.cli.config import find_placeholders
from api.cli.configuration_files import env_text, networks_text, tenants_text
from api.cli.env_file import read_env_file
from api.cli.output import redirect_log
from api.cli.presets import PRESETS
from signer.config.networks import load_networks
from signer.config.settings import Settings
from signer.errors import ConfigurationError, InvalidInputError
from signer.private_files import create_once


LAPTOP, PRODUCTION = "laptop", "production"

_NOT_A_TERMINAL = (
    "this command asks questions, and standard input is not a terminal: add --yes, with"
    " --for and --network"
)

# What a production needs and has no default; none of it is a secret.
_ASKED = {
    "KMS_KEY_ID": "ARN of the KMS key",
    "AWS_REGION": "AWS region of the key",
    "WALLET_ADDRESS": "Address of the key (`hotwallet doctor` shows it later)",
    "JWT_JWKS_URL": "URL of the token issuer's key set",
}


@click.command()
@click.option(
    "--for",
    "purpose",
    type=click.Choice([LAPTOP, PRODUCTION]),
    help="laptop: SoftHSM and SQLite.  production: AWS KMS and PostgreSQL.",
)
@click.option(
    "--network",
    "names",
    type=click.Choice(sorted(PRESETS)),
    multiple=True,
    help="A network to refund on; repeat it for others.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Where to write the files.",
)
@click.option("--yes", "-y", is_flag=True, help="Ask nothing: leave out what is unset.")
def init(purpose: str | None, names: Sequence[str], directory: Path, yes: bool) -> None:
    """
    Write a commented configuration, check it, and print the next commands.

    It overwrites nothing.  URLs of nodes contain API keys, so they are asked for or
    edited later, and no option has them.

    Example: hotwallet init --for laptop --network ethereum-sepolia --yes
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(_NOT_A_TERMINAL)
    purpose = purpose or (LAPTOP if yes else _ask_purpose())
    names = names or ([_default_network(purpose)] if yes else _ask_networks(purpose))
    urls = {} if yes else {name: _ask_urls(name) for name in dict.fromkeys(names)}
    given = {} if yes or purpose == LAPTOP else _ask_settings()
    directory = directory.resolve()
    env_file, texts = _plan(directory, purpose, given)
    presets = [PRESETS[name] for name in dict.fromkeys(names)]
    texts[directory / "networks.toml"] = networks_text(presets, urls)
    _write(directory, texts)
    if purpose == LAPTOP:
        _create_token_keys(directory)
    for path in texts:
        click.echo(f"wrote {path}")
    for problem in _check(env_file, directory):
        click.echo(f"still to do: {problem}")
    click.echo("Next:")
    for command in _next_commands(purpose, directory):
        click.echo(f"  {command}")


def _plan(
    directory: Path, purpose: str, given: Mapping[str, str]
) -> tuple[Path, dict[Path, str]]:
    """Return the environment file, and the text of each file but the networks."""
    home = directory / ".hotwallet"
    paths = {"NETWORKS_FILE": str(directory / "networks.toml")}
    if purpose == LAPTOP:
        env_file = directory / ".env"
        values = {
            **paths,
            "APP_ENV": "development",
            "USE_KMS": "false",
            "HOTWALLET_HOME": str(home),
            "JWT_SIGNING_KEY_FILE": str(home / "jwt.pem"),
            "JWT_PUBLIC_KEY_FILE": str(home / "jwt.pub.pem"),
        }
        return env_file, {env_file: env_text(values)}
    env_file, tenants = directory / "hotwallet.env", directory / "tenants.toml"
    values = {
        **paths,
        "TENANTS_FILE": str(tenants),
        "MAC_KEY_FILE": str(directory / "mac.key"),
        "AUDIT_SIGNING_KEY_FILE": str(directory / "audit.pem"),
        **given,
    }
    return env_file, {env_file: env_text(values), tenants: tenants_text()}


def _write(directory: Path, texts: Mapping[Path, str]) -> None:
    """
    Create every file; only their owner may read them.

    Raises:
        InvalidInputError: One of them exists; nothing was written, unless another
            process created it meanwhile.
    """
    for path in texts:
        if path.exists():
            raise InvalidInputError(
                f"{path} exists, and nothing was written: choose another --directory"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            if not create_once(path, text.encode):
                raise InvalidInputError(f"{path} was created by another process")
    except OSError as e:
        raise click.FileError(e.filename or str(directory), e.strerror) from None


def _create_token_keys(directory: Path) -> None:
    from api.auth.dev_tokens import provide_signing_key  # noqa: PLC0415  Slow to import.

    home = directory / ".hotwallet"
    provide_signing_key(home / "jwt.pem", home / "jwt.pub.pem")


def _check(env_file: Path, directory: Path) -> Sequence[str]:
    """Return what is still missing, or wrong, in the files that were written."""
    problems = find_placeholders(load_networks(directory / "networks.toml"))
    try:
        with redirect_log():
            check_configuration(read_env_file(env_file))
    except ConfigurationError as e:
        problems += [str(refusal) for refusal in e.refusals]
    return problems


def _next_commands(purpose: str, directory: Path) -> Sequence[str]:
    if purpose == LAPTOP:
        go = "" if directory == Path.cwd() else f"cd {directory} && "
        return (
            f"{go}hotwallet softhsm init",
            f"{go}hotwallet up",
            f"{go}hotwallet doctor    # in a second terminal, while it runs",
        )
    return (
        f"hotwallet db mac-key --out {directory / 'mac.key'}",
        f"hotwallet audit key --out {directory / 'audit.pem'}",
        f"hotwallet config check {directory / 'hotwallet.env'}",
    )


def _default_network(purpose: str) -> str:
    return "ethereum-sepolia" if purpose == LAPTOP else "ethereum"


def _ask_purpose() -> str:
    choice = click.Choice([LAPTOP, PRODUCTION])
    answer: str = click.prompt("For", type=choice, default=LAPTOP, err=True)
    return answer


def _ask_networks(purpose: str) -> Sequence[str]:
    click.echo(f"Networks: {', '.join(PRESETS)}", err=True)
    while True:
        text: str = click.prompt(
            "Which, separated by commas", default=_default_network(purpose), err=True
        )
        names = [each.strip() for each in text.split(",") if each.strip()]
        unknown = [each for each in names if each not in PRESETS]
        if names and not unknown:
            return names
        click.echo(f"unknown: {', '.join(unknown) or 'none was given'}", err=True)


def _ask_urls(name: str) -> Sequence[str]:
    text: str = click.prompt(
        f"URLs of nodes of {name}, separated by commas (not shown; empty: later)",
        default="",
        hide_input=True,
        show_default=False,
        err=True,
    )
    return [each.strip() for each in text.split(",") if each.strip()]


def _ask_settings() -> Mapping[str, str]:
    answers = {
        name: click.prompt(f"{text} (empty: later)", "", show_default=False, err=True)
        for name, text in _ASKED.items()
    }
    given = {name: answer.strip() for name, answer in answers.items()}
    Settings.from_env({**given, "APP_ENV": "test"})  # Refuses malformed answers.
    return {name: answer for name, answer in given.items() if answer}
