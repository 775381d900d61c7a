"""``hotwallet init``: write a configuration to start from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, chdir
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import click

from api.cli.audit import create_key
from api.cli.config import find_placeholders
from api.cli.configuration_files import (
    ALERTS,
    ASKED,
    PRESETS,
    PROCESSES,
    env_text,
    find_unset,
    networks_text,
    process_texts,
    read_answers,
    tenants_text,
)
from api.cli.options import read_env_file
from api.cli.output import redirect_log
from signer.errors import ConfigurationError, InvalidInputError, Refusal
from signer.private_files import create_once


LAPTOP, PRODUCTION = "laptop", "production"

_KEYS = ("mac.key", "audit.pem", "audit.pem.pub.pem")

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
    given = read_answers(given)
    asked = () if yes else dict.fromkeys(names)
    urls = {name: _ask_urls(name, purpose) for name in asked}
    if purpose == PRODUCTION and not yes:
        given = read_answers({**given, **_ask_settings(given)})
    directory = directory.resolve()
    texts = _plan(directory, purpose, given)
    texts[directory / "networks.toml"] = networks_text(
        {name: PRESETS[name] for name in names}, urls
    )
    keys = [directory / name for name in _KEYS] if purpose == PRODUCTION else []
    _write(directory, texts, keys)
    if purpose == LAPTOP:
        _create_token_keys(directory)
    for path in (*texts, *keys):
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
    """Create every file, and the *keys*, or none; only their owner may read them."""
    from api.key_files import create_mac_key

    for path in (*texts, *keys):
        if path.exists():
            raise InvalidInputError(
                f"{path} exists, and nothing was written: choose another --directory"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undone:
            for path, text in texts.items():
                if not create_once(path, text.encode):
                    raise InvalidInputError(f"{path} was created by another process")
                undone.callback(path.unlink)
            if keys:
                mac_key, audit_key, _ = keys
                create_mac_key(mac_key)
                undone.callback(mac_key.unlink)
                create_key(audit_key)
            undone.pop_all()
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
        names = _split(text)
        unknown = [each for each in names if each not in PRESETS]
        if names and not unknown:
            return names
        click.echo(f"unknown: {', '.join(unknown) or 'none was given'}", err=True)


def _ask_urls(name: str, purpose: str) -> Sequence[str]:
    schemes = ("https",) if purpose == PRODUCTION else ("https", "http")

    def check(text: str) -> None:
        if not all(_is_url(each, schemes) for each in _split(text)):
            expected = f"must be URLs: {' or '.join(schemes)}, and a host"
            raise ConfigurationError(Refusal("rpc-insecure", expected))

    question = f"URLs of nodes of {name}, separated by commas"
    return _split(_ask(question, check, hidden=True))


def _split(text: str) -> Sequence[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _is_url(text: str, schemes: Sequence[str]) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname)
    except ValueError:
        return False


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
    questions = {**ASKED, ALERTS: "URL that alerts are sent to"}
    return {
        name: _ask(question, partial(_read_answer, name), hidden=name == ALERTS)
        for name, question in questions.items()
        if name not in given
    }


def _read_answer(name: str, text: str) -> None:
    read_answers({name: text})


def _ask(question: str, check: Callable[[str], object], *, hidden: bool = False) -> str:
    """Return the first answer that *check* accepts; no message has a value."""
    shown = "not shown; " if hidden else ""
    prompt = f"{question} ({shown}empty: later)"
    while True:
        text: str = click.prompt(
            prompt, "", hide_input=hidden, show_default=False, err=True
        )
        try:
            check(text)
        except ConfigurationError as e:
            for refusal in e.refusals:
                click.echo(f"not accepted: {refusal.message}", err=True)
        else:
            return text.strip()
