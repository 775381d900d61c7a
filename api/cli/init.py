"""``hotwallet init``: write a configuration to start from."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path

import click

from api.cli.audit_files import create_key
from api.cli.config import find_placeholders
from api.cli.configuration_files import env_text, networks_text, tenants_text
from api.cli.env_file import read_env_file
from api.cli.output import redirect_log
from api.cli.presets import PRESETS
from api.cli.process_files import (
    ALERTS,
    ASKED,
    PROCESSES,
    find_unset,
    process_texts,
    read_answers,
)
from signer.errors import ConfigurationError, InvalidInputError
from signer.private_files import create_once


LAPTOP, PRODUCTION = "laptop", "production"

_NOT_A_TERMINAL = (
    "this command asks questions, and standard input is not a terminal: add --yes, with"
    " --for and --network"
)


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
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help=f"For production, in place of a question: {', '.join(ASKED)}.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Where to write the files.",
)
@click.option("--yes", "-y", is_flag=True, help="Ask nothing: leave out what is unset.")
def init(
    purpose: str | None,
    names: Sequence[str],
    settings: Sequence[str],
    directory: Path,
    yes: bool,
) -> None:
    """
    Write a configuration, check it, and print the next commands.

    For production, each process gets a file with what differs from a default, and a
    database password of its own; the keys of the MACs and of the audit log are made.

    It overwrites nothing.  URLs of nodes contain API keys, so they are asked for or
    edited later, and no option has them.

    Example: hotwallet init --for laptop --network ethereum-sepolia --yes
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(_NOT_A_TERMINAL)
    given = _read_settings(settings)
    purpose = purpose or (LAPTOP if yes else _ask_purpose())
    if given and purpose == LAPTOP:
        raise click.UsageError("--set is for --for production; edit .env later")
    names = names or ([_default_network(purpose)] if yes else _ask_networks(purpose))
    urls = {} if yes else {name: _ask_urls(name) for name in dict.fromkeys(names)}
    if purpose == PRODUCTION:
        given |= {} if yes else _ask_settings(given)
        given = read_answers(given)
    directory = directory.resolve()
    texts = _plan(directory, purpose, given)
    presets = [PRESETS[name] for name in dict.fromkeys(names)]
    texts[directory / "networks.toml"] = networks_text(presets, urls)
    keys = ("mac.key", "audit.pem") if purpose == PRODUCTION else ()
    _write(directory, texts, [directory / name for name in keys])
    if purpose == LAPTOP:
        _create_token_keys(directory)
    for path in (*texts, *(directory / name for name in keys)):
        click.echo(f"wrote {path}")
    for problem in _check(directory, purpose):
        click.echo(f"still to do: {problem}")
    click.echo("Next:")
    for command in _next_commands(purpose, directory):
        click.echo(f"  {command}")


def _plan(directory: Path, purpose: str, given: Mapping[str, str]) -> dict[Path, str]:
    """Return the text of each file but the networks."""
    if purpose == PRODUCTION:
        texts = {**process_texts(given), "tenants.toml": tenants_text()}
        return {directory / name: text for name, text in texts.items()}
    home = directory / ".hotwallet"
    values = {
        "NETWORKS_FILE": str(directory / "networks.toml"),
        "APP_ENV": "development",
        "USE_KMS": "false",
        "HOTWALLET_HOME": str(home),
        "JWT_SIGNING_KEY_FILE": str(home / "jwt.pem"),
        "JWT_PUBLIC_KEY_FILE": str(home / "jwt.pub.pem"),
    }
    return {directory / ".env": env_text(values)}


def _write(directory: Path, texts: Mapping[Path, str], keys: Sequence[Path]) -> None:
    """
    Create every file, and the *keys*; only their owner may read them.

    Raises:
        InvalidInputError: One of them exists; nothing was written, unless another
            process created it meanwhile.
    """
    from api.mac_key import create_mac_key

    for path in (*texts, *keys):
        if path.exists():
            raise InvalidInputError(
                f"{path} exists, and nothing was written: choose another --directory"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            if not create_once(path, text.encode):
                raise InvalidInputError(f"{path} was created by another process")
        for path in keys:
            create_mac_key(path) if path.suffix == ".key" else create_key(path)
    except OSError as e:
        raise click.FileError(e.filename or str(directory), e.strerror) from None


def _create_token_keys(directory: Path) -> None:
    from api.auth.dev_tokens import provide_signing_key

    home = directory / ".hotwallet"
    provide_signing_key(home / "jwt.pem", home / "jwt.pub.pem")


def _check(directory: Path, purpose: str) -> Sequence[str]:
    """Return what is still missing, or wrong, in the files that were written."""
    from signer.config.networks import load_networks

    networks = load_networks(directory / "networks.toml")
    problems = {each: list[str]() for each in find_placeholders(networks)}
    for process in PROCESSES if purpose == PRODUCTION else (None,):
        file = f"{process or ''}.env"
        with chdir(directory):
            for problem in _check_file(Path(file), process):
                problems.setdefault(problem, []).append(file)
    return [
        f"{problem} ({', '.join(files)})" if files else problem
        for problem, files in problems.items()
    ]


def _check_file(path: Path, process: str | None) -> Sequence[str]:
    from api.bootstrap import check_configuration

    environ = read_env_file(path)
    unset = find_unset(process, environ) if process is not None else []
    try:
        with redirect_log():
            check_configuration(environ, process)
    except ConfigurationError as e:
        return [*map(str, e.refusals), *unset]
    return unset


def _next_commands(purpose: str, directory: Path) -> Sequence[str]:
    go = "" if directory == Path.cwd() else f"cd {directory} && "
    if purpose == LAPTOP:
        return (
            f"{go}hotwallet softhsm init",
            f"{go}hotwallet up",
            f"{go}hotwallet doctor    # in a second terminal, while it runs",
        )
    return [f"{go}hotwallet config check --process {each}" for each in PROCESSES]


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
    text = _ask_secret(f"URLs of nodes of {name}, separated by commas")
    return [each.strip() for each in text.split(",") if each.strip()]


def _read_settings(settings: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=")[::2] for text in settings]
    for name, _ in pairs:
        if name not in ASKED:
            raise click.BadParameter(
                f"{name} is none of {', '.join(ASKED)}: edit the files later",
                param_hint="--set",
            )
    return dict(pairs)


def _ask_settings(given: Mapping[str, str]) -> dict[str, str]:
    answers = {
        name: click.prompt(f"{text} (empty: later)", "", show_default=False, err=True)
        for name, text in ASKED.items()
        if name not in given
    }
    answers[ALERTS] = _ask_secret("URL that alerts are sent to")
    return answers


def _ask_secret(text: str) -> str:
    prompt = f"{text} (not shown; empty: later)"
    answer: str = click.prompt(
        prompt, "", hide_input=True, show_default=False, err=True
    )
    return answer
