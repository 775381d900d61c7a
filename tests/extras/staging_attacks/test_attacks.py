"""``hotwallet attack`` finds planted weaknesses, and none in the service."""

import base64
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.auth.dev_tokens import mint
from api.extras.staging_attacks.attacks import run_attacks
from api.extras.staging_attacks.target import Target
from dev.anvil import ROOT
from dev.stack import Stack, running_stack
from signer.config.settings import Settings
from tests.e2e.gateway import RECIPIENT
from tests.extras.staging_attacks.weak_proxy import (
    Message,
    Weakness,
    WeakProxy,
    has_claims,
    read_query,
)
from tests.support.forked_processes import ForkedHotWallet, run_command
from tests.support.servers import LocalServer


THREATS = ROOT / "docs" / "explanation" / "threat-model.md"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("staging") / "home"
    # All tests share an address: only the last attack of a run may reach the limit.
    settings = {"RATE_LIMIT_REFUSED": "390"}
    with running_stack(home, settings=settings, program=ForkedHotWallet()) as running:
        yield running


@pytest.fixture(scope="module")
def tokens(stack: Stack) -> tuple[str, str]:
    """The tokens of two tenants."""
    settings = Settings.from_env(stack.environ)
    first, second = (
        mint(settings, subject=subject, roles=["merchant"])
        for subject in ("gateway", "neighbour")
    )
    return first, second


def _take_for_a_tenant(message: Message) -> None:
    """Do not ask for a token."""
    if not message.token:
        message.take_for_the_tenant()


def _read_the_query(message: Message) -> None:
    if not message.token and read_query(message):
        message.take_for_the_tenant()
        message.path = message.path.partition("?")[0]


def _trust_the_algorithm(message: Message) -> None:
    if has_claims(message.token) and message.token.endswith("."):
        message.take_for_the_tenant()


def _trust_any_key(message: Message) -> None:
    if has_claims(message.token) and '"ES256"' in _head(message.token):
        message.take_for_the_tenant()


def _trust_the_claims(message: Message) -> None:
    if has_claims(message.token) and not message.token.endswith("."):
        message.take_for_the_tenant()


def _head(token: str) -> str:
    part = token.partition(".")[0]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()


def _administer(message: Message) -> None:
    if "/v1/admin/" in message.path:
        message.status, message.body, message.headers = 200, b"{}", {}


def _show_all_refunds(message: Message) -> None:
    if message.method == "GET":
        message.take_for_the_tenant()


def _forget_keys(message: Message) -> None:
    if "Idempotency-Key" in message.headers:
        message.headers["Idempotency-Key"] = secrets.token_hex(16)
        message.change("payment_session_id", lambda _: f"ps_{secrets.token_hex(8)}")


def _round_amounts(message: Message) -> None:
    message.change("amount", _rounded)


def _rounded(amount: object) -> object:
    try:
        return (
            f"{abs(float(amount)):.6f}" if isinstance(amount, str | float) else amount
        )
    except ValueError:
        return amount


def _correct_recipients(message: Message) -> None:
    message.change("recipient", lambda _: RECIPIENT)


def _drop_fields(message: Message) -> None:
    try:
        document = json.loads(message.body)
    except ValueError:
        return
    if isinstance(document, dict):
        document.pop("priority", None)
        message.body = json.dumps(document).encode()


def _quote(message: Message) -> None:
    if message.status >= 400:
        message.body += message.asked


def _sign_anything(message: Message) -> None:
    if message.path == "/rpc":
        message.status, message.headers = 200, {}
        message.body = b'{"jsonrpc": "2.0", "id": 1, "result": "0x00"}'


def _remove_headers(message: Message) -> None:
    message.headers = {"Server": "gunicorn/27.0.1"}


def _do_not_count(message: Message) -> None:
    if message.token and not has_claims(message.token):
        message.status, message.body, message.headers = 401, b"{}", {}


# What a deployment does wrong, by the attack that has to find it.
WEAKNESSES = {
    "no-token": Weakness(_take_for_a_tenant),
    "token-elsewhere": Weakness(_read_the_query),
    "unsigned-token": Weakness(_trust_the_algorithm),
    "forged-token": Weakness(_trust_any_key),
    "changed-token": Weakness(_trust_the_claims),
    "merchant-as-administrator": Weakness(_administer),
    "neighbours-refund": Weakness(_show_all_refunds),
    "repeated-request": Weakness(_forget_keys),
    "amounts": Weakness(_round_amounts),
    "recipients": Weakness(_correct_recipients),
    "bodies": Weakness(_drop_fields),
    "quoted-values": Weakness(answer=_quote),
    "json-rpc": Weakness(_sign_anything),
    "headers": Weakness(answer=_remove_headers),
    "console-page": Weakness(answer=_remove_headers),
    "smuggling": Weakness(),  # Python's server reads all of these.
    "held-connections": Weakness(holds_up=True),
    "guessed-tokens": Weakness(_do_not_count),
}


@pytest.fixture(params=WEAKNESSES)
def weak(
    request: pytest.FixtureRequest, stack: Stack, tokens: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    """An attack, and the URL of a deployment that it must find to be weak."""
    planted = WEAKNESSES[request.param]

    class Proxy(WeakProxy):
        url = stack.url
        tenant = tokens[0]
        weakness = planted

    with LocalServer(Proxy) as server:
        yield request.param, server.url


def test_a_planted_weakness_is_found(
    weak: tuple[str, str], tokens: tuple[str, str]
) -> None:
    """One by one; the other attacks need not find it."""
    name, url = weak

    reports = run_attacks(Target(url, *tokens, RECIPIENT), only={name})

    assert [each.attack.name for each in reports if each.weaknesses] == [name]


def _options(tokens: tuple[str, str], folder: Path) -> list[str]:
    options = ["--recipient", RECIPIENT]
    for name, token in zip(("token-file", "other-token-file"), tokens, strict=True):
        (folder / name).write_text(f"{token}\n")
        options += [f"--{name}", str(folder / name)]
    return options


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["--chain-id", "1"], "--chain-id pays on chain 31337, which is not named"),
        (["--chain-id", "31337", "--staging", "ftp://host"], "--staging must be an"),
        (["--chain-id", "31337", "--staging", "http://127.0.0.1:9"], "does not answer"),
    ],
)
def test_nothing_is_tried(
    stack: Stack,
    tokens: tuple[str, str],
    tmp_path: Path,
    changes: list[str],
    problem: str,
) -> None:
    """On other chains, or where no service answers."""
    options = ["--staging", stack.url, *_options(tokens, tmp_path), *changes]

    finished = run_command(["attack", *options], stack.environ)

    assert finished.returncode == 2
    assert problem in finished.stderr
    assert "tried" not in finished.stderr


def test_the_service_resists(
    stack: Stack, tokens: tuple[str, str], tmp_path: Path
) -> None:
    """Each attack has its planted weakness, except for the transport's."""
    options = _options(tokens, tmp_path)

    finished = run_command(
        ["attack", "--staging", stack.url, *options, "--chain-id", "31337", "--json"],
        stack.environ,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads(finished.stdout)
    assert report["ok"] is True
    names = {each["name"] for each in report["attacks"]}
    assert names == {*WEAKNESSES, "transport"}
    headings = re.findall(r"^### (.*)$", THREATS.read_text("utf-8"), re.MULTILINE)
    sections = {each.lower().replace(" ", "-") for each in headings}
    assert {each["threat"] for each in report["attacks"]} <= sections
