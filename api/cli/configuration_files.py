"""The texts of the files that ``hotwallet init`` writes."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from signer.errors import ConfigurationError, Refusal


PLACEHOLDER_URL = "https://rpc.example.com/your-key"

PROCESSES = ("refunds", "worker", "admin", "sign")
"""Each has an environment file, and a database role, of its name."""

ASKED = {
    "KMS_KEY_ID": "ARN of the KMS key",
    "WALLET_ADDRESS": "Address of the key (`hotwallet guard` prints it)",
    "DATABASE_URL": "Database, without user and password: postgresql://HOST/DATABASE",
    "JWT_JWKS_URL": "URL of the token issuer's key set",
    "JWT_ISSUER": "What `iss` of its tokens is",
    "JWT_AUDIENCE": "What `aud` of its tokens is",
    "AUDIT_ORIGIN": "Name of this environment in the audit log",
}
"""What an operator must decide; none of it is a secret."""

ALERTS = "ALERT_WEBHOOK_URL"
"""Asked without being shown, since it is a secret."""

_DATABASE = "postgresql://database.invalid/hotwallet"  # RFC 2606, section 2.
_PLACE = (
    "must be postgresql://HOST/DATABASE, without user and password: each process gets"
    " its own"
)
_VERIFIED = "sslmode=verify-full&sslrootcert=system"

# The service starts without them; then other keys and tokens are accepted too.
_UNSET = {
    "WALLET_ADDRESS": "; `hotwallet guard` prints the key's address",
    "JWT_ISSUER": ": set it to `iss` of the tokens",
    "JWT_AUDIENCE": ": set it to `aud` of the tokens",
    "AUDIT_ORIGIN": ": name this environment in the audit log",
}

_SERVERS = {"refunds": 8080, "admin": 8081, "sign": 8082}
_TOKENS = ("JWT_JWKS_URL", "JWT_ISSUER", "JWT_AUDIENCE")
_COMMENTS = {
    "refunds": "Accepts refunds behind the proxy, and has nothing that signs",
    "worker": "Pays refunds",
    "admin": "Serves administrators; operators run their commands with it",
    "sign": "Serves JSON-RPC to other programs; only if there are some",
    "owner": "For docker/roles.sql, `hotwallet db upgrade` and docker/grants.sql",
}


def _read(name: str) -> str:
    return files("api.cli").joinpath(name).read_text(encoding="utf-8")


PRESETS: Mapping[str, Mapping[str, Any]] = tomllib.loads(_read("presets.toml"))
"""The networks that ``hotwallet init`` knows."""


def read_answers(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the answers of an operator, checked."""
    given = {name: text.strip() for name, text in texts.items() if text.strip()}
    refusals = [each for item in given.items() for each in _find_refusals(*item)]
    if refusals:
        raise ConfigurationError(*refusals)
    return given


def _find_refusals(name: str, text: str) -> Sequence[Refusal]:
    """Return why production refuses the answer *text* on its own."""
    if name == "DATABASE_URL":
        if not _is_place(text):
            return [Refusal("settings-invalid", f"{name} {_PLACE}")]
        text = _database_url("owner", text)
    without = _guard_refusals({})
    found = _guard_refusals({name: text})
    return [each for each in found if name in each.message and each not in without]


def _guard_refusals(values: Mapping[str, str]) -> Sequence[Refusal]:
    from signer.config.settings import AWS_KMS, Settings
    from signer.startup.guard import check_settings

    environ = {"APP_ENV": "production", "KEY_BACKEND": AWS_KMS, **values}
    try:
        check_settings(Settings.from_env(environ), {})
    except ConfigurationError as e:
        return e.refusals
    return ()


def _is_place(text: str) -> bool:
    """Return whether *text* is the URL of a PostgreSQL database without a user."""
    try:
        url = urlsplit(text)
    except ValueError:
        return False
    is_database = bool(url.path.strip("/")) and "@" not in url.netloc
    return url.scheme == "postgresql" and is_database


def process_texts(answers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the text of each environment file, with new passwords of the database."""
    passwords = {name: secrets.token_hex(24) for name in (*PROCESSES, "owner")}
    texts = {
        name: _text(name, _process_values(name, answers), answers, passwords[name])
        for name in PROCESSES
    }
    of_roles = {
        f"{name.upper()}_PASSWORD": password for name, password in passwords.items()
    }
    # Of the superuser of docker/compose.yaml's own database.
    of_roles["POSTGRES_PASSWORD"] = secrets.token_hex(24)
    owner = {"MAC_KEY_FILE": "mac.key", **of_roles}
    texts["owner"] = _text("owner", owner, answers, passwords["owner"])
    return {f"{name}.env": text for name, text in texts.items()}


def find_unset(process: str, environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for what a process starts without, although it should not."""
    written = _process_values(process, {})
    has_example = environ.get("DATABASE_URL") == _database_url(process, _DATABASE)
    example = "DATABASE_URL has an example: set the server and the database"
    return [example] * has_example + [
        f"{name} is not set{hint}"
        for name, hint in _UNSET.items()
        if name in written and not environ.get(name, "").strip()
    ]


def _process_values(process: str, answers: Mapping[str, str]) -> dict[str, str]:
    """Return what differs from a default; files are where the process is started."""
    from signer.config.settings import AWS_KMS

    names: Sequence[str] = _TOKENS if process in _SERVERS else ()
    values = {"TENANTS_FILE": "tenants.toml", "MAC_KEY_FILE": "mac.key"}
    if process in _SERVERS:
        values["SERVE_ROLE"] = process
        values["BIND"] = f"127.0.0.1:{_SERVERS[process]}"
    if process == "refunds":
        values["TRUSTED_PROXIES"] = "127.0.0.1"
    else:
        names = ("KMS_KEY_ID", "WALLET_ADDRESS", *names)
        # The region of an ARN (arn:aws:kms:REGION:ACCOUNT:key/ID).
        region = answers.get("KMS_KEY_ID", "").split(":")[3:4]
        values |= {"KEY_BACKEND": AWS_KMS, "AWS_REGION": "".join(region)}
    if process == "worker":
        names = (*names, "JWT_AUDIENCE")  # Signed requests name it.
    if process in {"worker", "admin"}:
        names = (*names, "AUDIT_ORIGIN")
        values["AUDIT_SIGNING_KEY_FILE"] = "audit.pem"
    return {**values, **{name: answers.get(name, "") for name in names}}


def _text(
    process: str, values: Mapping[str, str], answers: Mapping[str, str], password: str
) -> str:
    url = _database_url(process, answers.get("DATABASE_URL", _DATABASE))
    lines = {"DATABASE_URL": url, "PGPASSWORD": password, **values}
    if process in PROCESSES:
        lines[ALERTS] = answers.get(ALERTS, "")
    return "".join(
        [
            f"# {_COMMENTS[process]}.  docs/reference/configuration.md\n",
            *(f"{name}={_quoted(value)}\n" for name, value in lines.items()),
        ]
    )


def _database_url(process: str, place: str) -> str:
    """Return the URL for the role of *process*; the server's certificate is checked."""
    url = urlsplit(place)
    netloc = f"hotwallet_{process}@{url.netloc}"
    return url._replace(netloc=netloc, query=url.query or _VERIFIED).geturl()


def _quoted(value: str) -> str:
    """Quote for a shell, systemd and Docker Compose alike; an empty value is none."""
    return shlex.quote(value) if value else ""


def _toml_key(name: str) -> str:
    # A token or a person may have chosen it.
    is_bare = re.fullmatch(r"[A-Za-z0-9_-]+", name)
    return name if is_bare else json.dumps(name, ensure_ascii=False)


def networks_text(
    networks: Mapping[str, Mapping[str, Any]], urls: Mapping[str, Sequence[str]]
) -> str:
    """Return the file of *networks*; one without *urls* gets a placeholder."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701  It is TOML.
        undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(_read("networks.toml.jinja")).render(
        networks=networks,
        urls=urls,
        placeholder=PLACEHOLDER_URL,
        key=_toml_key,
        list=json.dumps,
    )


def tenants_text() -> str:
    return _read("tenants.example")


def variable_names() -> frozenset[str]:
    """Return the variables that the service reads."""
    return frozenset(re.findall(r"^([A-Z0-9_]+)=", _read("env.example"), re.MULTILINE))


def env_text(values: Mapping[str, str]) -> str:
    """Return the environment file: every variable with its comment, and *values*."""
    template = _read("env.example")
    for name, value in values.items():
        line = re.compile(rf"^{name}=.*$", re.MULTILINE)
        template, count = line.subn(f"{name}={value}".replace("\\", r"\\"), template)
        if count != 1:
            raise ValueError(f"{name} is no variable")
    return template
