"""The parts of networks files and tenants files that pages show have known keys."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from pydantic import ValidationError

from signer.config.networks import Networks
from signer.config.tenants import Tenants
from signer.model.approvers import Approvers


ROOT = Path(__file__).resolve().parents[3]

_FENCE = re.compile(r"^ *```toml\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

# What a page leaves out because it is about something else.
_NETWORK = {"chain_id": 1, "rpc_urls": ["https://rpc.example.com"]}
_TOKEN = {
    "address": "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48",
    "decimals": 6,
    "max_amount": "100000",
}
_TENANT = {"subjects": ["shop-1"]}


def _examples() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((ROOT / "docs").rglob("*.md")):
        if path.parent.name != "adr":
            blocks = _FENCE.findall(path.read_text(encoding="utf-8"))
            for number, block in enumerate(blocks, start=1):
                yield f"{path.stem} {number}", tomllib.loads(dedent(block))


EXAMPLES = dict(_examples())


def _completed(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return *part* of a networks file with what it leaves out."""
    networks = {}
    for name, network in part.items():
        tokens = {
            symbol: {**_TOKEN, **{k: v for k, v in token.items() if v != "0x..."}}
            for symbol, token in network.get("tokens", {"USDC": {}}).items()
        }
        networks[name] = {**_NETWORK, **network, "tokens": tokens}
    return networks


def _check(example: Mapping[str, Any]) -> None:
    """Raise ValidationError if *example* has an unknown key, or an invalid value."""
    if "networks" in example:
        Networks.model_validate({"networks": _completed(example["networks"])})
    if "tenants" in example:
        tenants = {name: {**_TENANT, **it} for name, it in example["tenants"].items()}
        Tenants.model_validate({"tenants": tenants})
    if "people" in example:
        Approvers.parse(example)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_valid(name: str) -> None:
    """Every table belongs to one of the three files, or to examples of a policy."""
    example = EXAMPLES[name]
    _check(example)

    files = {"networks", "tenants", "deployment", "page", "people"}
    assert {*example} <= {*files, "defaults", "example"}


def test_an_unknown_key_is_refused() -> None:
    pages = {name.split()[0] for name in EXAMPLES}

    assert {"networks", "tenants", "webhooks", "add-a-network"} <= pages
    for wrong in (
        {"networks": {"base": {"confirmation": 3}}},
        {"networks": {"base": {"tokens": {"USDC": {"max": "1"}}}}},
        {"tenants": {"shop": {"subject": "x"}}},
    ):
        with pytest.raises(ValidationError):
            _check(wrong)
