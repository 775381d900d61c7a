"""json-rpc.md has each method, route, code and bound of the endpoint, and no other."""

import re
from collections.abc import Iterator
from pathlib import Path

from api.extras.signing_api import calls, methods, routes
from api.http import body
from api.http.problems import code_statuses
from signer.crypto import transaction_json
from signer.policy.rules import RULES
from signer.refunds import eth_send_transaction, token_transfer


ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "reference" / "json-rpc.md").read_text(encoding="utf-8")

BOUNDS = {
    "MAX_CALLS": (calls, 100, "A batch has 1 to 100 calls"),
    "MAX_DEPTH": (calls, 64, "more than 64 levels"),
    "_LONGEST_ID": (calls, 256, "null, or a string, of at most 256 characters"),
    "REQUEST_SECONDS": (routes, 20, "After 20 seconds, no further call"),
    "BROADCAST_SECONDS": (methods, 5, "waits up to 5 seconds for the broadcast"),
    "WINDOW_SECONDS": (eth_send_transaction, 120, "within two minutes is the same"),
    "LOCAL_CHAIN": (methods, 31_337, "on chain 31337 only"),
    "MAX_BLOCKS": (methods, 1_000, "at most 1,000 blocks"),
    "MAX_RESULT": (methods, 4 * 1024**2, "at most 4 MiB of JSON together"),
    "MAX_BATCH": (body, 1024**2, "JSON of at most 1 MiB"),
}


def _section(title: str) -> str:
    """Return the text of the page from a heading to the next one."""
    (found,) = re.findall(
        rf"^##+ {title}\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE
    )
    return str(found)


def _first_cells(text: str) -> Iterator[str]:
    yield from re.findall(r"^\| (.+?) \|", text, re.MULTILINE)


def test_every_method_is_documented() -> None:
    documented = {
        name for cell in _first_cells(_section("Methods")) for name in _names(cell)
    }

    assert documented == methods.METHODS


def test_the_migration_from_web3signer_names_methods_that_exist() -> None:
    """Those that stay are methods of the endpoint, and the others are none."""
    text = (ROOT / "docs" / "how-to" / "migrate.md").read_text()
    page = text.partition("\n## From web3signer\n")[2].partition("\n## ")[0]
    stays = {
        (name, "the same call" in there)
        for here, there in re.findall(r"^\| (.+?) \| (.+?) \|$", page, re.MULTILINE)
        for name in _names(here)
        if name.startswith(("eth_", "personal_"))
    }

    assert len(stays) > 5
    for name, does_stay in stays:
        assert does_stay is (name in methods.METHODS), name


def _names(cell: str) -> list[str]:
    return re.findall(r"`(\w+_\w+)`", cell)


def test_every_field_of_a_transfer_is_documented() -> None:
    """A field that the page does not have is answered with -32602."""
    table = _first_cells(_section("`eth_sendTransaction`"))
    documented = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}

    fields = {"from", "type", *transaction_json._READERS, *transaction_json._ALIASES}
    assert documented == fields - token_transfer._OF_OTHER_TYPES


def test_every_route_is_documented() -> None:
    code = (ROOT / "api/extras/signing_api/routes.py").read_text(encoding="utf-8")
    routes = set(re.findall(r'add_route\("([^"]+)"', code))
    documented = set(re.findall(r"^\| `POST (\S+)` \|", PAGE, re.MULTILINE))

    assert len(routes) > 3
    assert documented == routes


def test_every_code_is_documented() -> None:
    """Those that errors of the core have, and those that only JSON-RPC has."""
    documented = {
        int(code)
        for cell in _first_cells(_section("Codes"))
        for code in re.findall(r"-?\d+", cell)
    }
    constants = {
        value
        for name, value in vars(calls).items()
        if name.isupper() and isinstance(value, int) and name not in BOUNDS
    }

    assert len(constants) > 10
    assert documented == constants


def test_every_bound_is_documented() -> None:
    """Each number of the modules has a phrase of the page."""
    numbers = {
        name
        for module in (calls, methods, routes)
        for name, value in vars(module).items()
        if name.lstrip("_").isupper() and type(value) in {int, float}
    }

    # Codes, all in ``calls``, have a table of their own; two are of ``/v1/sign``.
    of_rest = {"_MAX_DEPTH", "_SECONDS"}
    assert numbers - vars(calls).keys() - of_rest <= BOUNDS.keys()
    for name, (of, number, phrase) in BOUNDS.items():
        assert vars(of)[name] == number
        assert phrase in " ".join(PAGE.split())


def test_the_codes_of_rest_are_those_of_the_api() -> None:
    """With the status that the page has."""
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", _section("`/v1/sign`"), re.MULTILINE)
    documented = {
        (code, int(status))
        for status, cell in rows
        for code in re.findall(r"`([a-z-]+)`", cell)
    }

    assert len(documented) > 5
    assert documented <= code_statuses().items()


def test_the_rules_exist() -> None:
    """Those that explain why nothing else is sent, or signed."""
    (listed,) = re.findall(
        r"refused with 4001 and the rule: (.*?)\.\n", PAGE, re.DOTALL
    )
    named = [
        *re.findall(r"`([a-z-]+)`", listed),
        *re.findall(r"rule\s+`([a-z-]+)`", PAGE),
    ]

    assert len(named) > 4
    assert set(named) <= RULES.keys()
