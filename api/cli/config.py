"""``hotwallet config``: check configuration files before they are deployed."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from api.cli.configuration_files import PROCESSES, find_unset, variable_names
from api.cli.options import read_env_file
from api.cli.output import Result, prints, redirect_log
from signer.errors import ConfigurationError, InvalidInputError, Refusal


if TYPE_CHECKING:
    from signer.config.networks import Network


_INVALID = "settings-invalid"

_RESEMBLANCE = 0.85  # PGSERVICEFILE is another program's, and has 0.82.


@click.group()
def config() -> None:
    """Check configuration files."""


@config.command()
@click.argument(
    "paths",
    metavar="[FILES]",
    nargs=-1,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--process",
    type=click.Choice(PROCESSES),
    help="Check the file of this process only: FILES, or NAME.env, and no variable"
    " of the shell.",
)
@prints
def check(paths: Sequence[Path], process: str | None) -> Result:
    """
    Check settings, networks and tenants; ask no node, device or database.

    If JWT_JWKS_URL is set, the issuer's keys are fetched.

    FILES are environment files, networks files and tenants files.  Without FILES, the
    environment is checked.  With TOML files only, nothing else is.

    Exits with 78 if a process would refuse to start, and with 1 if a node's URL is
    still an example.  `hotwallet guard` also checks the key, the nodes and the
    database.

    Example: hotwallet config check --process worker
    """
    from api.bootstrap import check_configuration
    from signer.config.networks import load_networks

    environ = dict(os.environ) if process is None else {}
    others = [each for each in PROCESSES if process not in {None, each}]
    beside = [] if paths else [Path(f"{each}.env") for each in others]
    if process is not None and not paths:
        paths = [Path(f"{process}.env")]
    tables = {path: _read_kind(path) for path in paths if path.suffix == ".toml"}
    env_files = [path for path in paths if path not in tables]
    warnings = list[str]()
    for path in env_files:
        variables = read_env_file(path)
        environ.update(variables)
        warnings += [f"{path.name}: {each}" for each in find_misspelled(variables)]
    environ.update({variable: str(path) for path, variable in tables.items()})
    with redirect_log():
        if env_files or not tables:
            refusals = list(_find_foreign(others, environ))
            try:
                found = check_configuration(environ, process)
            except ConfigurationError as e:
                # A misspelled variable is often why one is missing.
                refusals += [*e.refusals, *(Refusal(_INVALID, w) for w in warnings)]
            if refusals:
                raise ConfigurationError(*refusals)
            warnings += found
            warnings += find_unset(process, environ) if process is not None else ()
            warnings += _find_same_address(beside, environ)
        else:
            _check_tables({variable: path for path, variable in tables.items()})
    networks_file = environ.get("NETWORKS_FILE", "").strip() or "networks.toml"
    has_networks = env_files or not tables or "NETWORKS_FILE" in tables.values()
    problems = (
        find_placeholders(load_networks(Path(networks_file))) if has_networks else []
    )
    document = {"ok": not problems, "problems": problems, "warnings": warnings}
    lines = [
        *(f"problem: {each}" for each in problems),
        *(f"warning: {each}" for each in warnings),
    ]
    return Result(document, lines or ["ok"], not problems)


def _find_foreign(
    others: Iterable[str], environ: Mapping[str, str]
) -> Iterator[Refusal]:
    """Yield why *environ* is that of one of the *others*, or of the owner."""
    user = environ.get("DATABASE_URL", "").partition("://")[2].partition("@")[0]
    for other in (*others, "owner") if others else ():
        if environ.get("SERVE_ROLE", "").strip() == other:
            yield Refusal(_INVALID, f"SERVE_ROLE is {other}: another process's file")
        if user == f"hotwallet_{other}":
            problem = f"DATABASE_URL has the role {user}: another process's file"
            yield Refusal(_INVALID, problem)


def _find_same_address(
    files: Iterable[Path], environ: Mapping[str, str]
) -> Iterator[str]:
    """Yield a sentence for each of *files* that has the same listen address."""
    address = environ.get("BIND", "").strip()
    for path in files:
        if address and path.exists() and read_env_file(path).get("BIND") == address:
            yield f"BIND is that of {path.name} too: on one host, only one starts"


def find_misspelled(names: Iterable[str]) -> list[str]:
    """Return a sentence for each name that resembles a variable of the service."""
    known = variable_names()
    close = {
        name: difflib.get_close_matches(name, known, 1, _RESEMBLANCE)
        for name in names
        if name not in known
    }
    return [
        f"{name} is no variable of the service; do you mean {match[0]}?"
        for name, match in close.items()
        if match
    ]


def find_placeholders(networks: Mapping[str, Network]) -> list[str]:
    return [
        f"networks.{name}.rpc_urls has an example: set the URLs of your nodes"
        for name, network in networks.items()
        if any(_is_example(url.get_secret_value()) for url in network.rpc_urls)
    ]


def _is_example(url: str) -> bool:
    # RFC 2606, section 3.
    host = urlsplit(url).hostname or ""
    return host == "example.com" or host.endswith(".example.com")


def _read_kind(path: Path) -> str:
    """Return the variable that names such a TOML file."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        problem = f"{path.name} is not TOML, or cannot be read"
        raise ConfigurationError(Refusal("settings-invalid", problem)) from None
    for table, variable in _TABLES.items():
        if table in document:
            return variable
    raise InvalidInputError(f"{path.name} has neither [networks] nor [tenants]")


_TABLES = {"networks": "NETWORKS_FILE", "tenants": "TENANTS_FILE"}


def _check_tables(files: Mapping[str, Path]) -> None:
    from signer.config.networks import load_networks
    from signer.config.tenants import check_tenants, load_tenants

    tenants = load_tenants(files.get("TENANTS_FILE"))
    if "NETWORKS_FILE" in files:
        networks = load_networks(files["NETWORKS_FILE"])
        if "TENANTS_FILE" in files:
            check_tenants(tenants, networks)
