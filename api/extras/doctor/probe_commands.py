"""``hotwallet network``: find out what a network is like."""

from __future__ import annotations

import math
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from api.cli.configuration_files import PRESETS, networks_text
from api.cli.output import Result, prints
from signer.errors import ChainError, InvalidInputError


if TYPE_CHECKING:
    from backends.json_rpc.probe import Probe


_SECONDS = 10.0
_FEE_FACTOR = 10
"""How many times the fee of now the cap is."""

_SHOWN_FEES = {None, "eip-1559", "legacy"}

_UNKNOWN_DEPTH = 64
"""Confirmations where the node names no final block."""


@click.group()
def network() -> None:
    """Find out what a network is like."""


@network.command()
@click.argument("url", required=False)
@click.option("--name", help="Of the network; by default as `hotwallet init` knows it.")
@click.option(
    "--token",
    "tokens",
    metavar="ADDRESS",
    multiple=True,
    help="A token, from its issuer's list; repeat it for others.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A new file for the entry, with the URL; otherwise it is printed without.",
)
@prints
def probe(
    url: str | None, name: str | None, tokens: Sequence[str], out: Path | None
) -> Result:
    """
    Ask the node at URL what its network is like, and write its entry.

    Without URL it is read from the terminal or standard input: a list of processes
    would show an API key.  Check the entry: a node can lie.

    Example: hotwallet network probe --out draft.toml
    """
    from eth_utils.address import is_address, to_checksum_address

    from signer.config.networks import Networks

    if url is None and sys.stdin.isatty():
        url = click.prompt("URL of a node", hide_input=True, err=True)
    elif url is None:
        url = sys.stdin.readline().strip()
    wrong = next((each for each in tokens if not is_address(each)), None)
    if wrong is not None:
        raise InvalidInputError(f"{wrong} is no address", field="--token")
    found = _ask(url, [to_checksum_address(each) for each in tokens])
    known = _find_preset(found.chain_id)
    name = name or known or f"chain-{found.chain_id}"
    entry = _entry(found, PRESETS.get(known or "", {}))
    text = networks_text({name: entry}, {name: [url]} if out is not None else {})
    try:
        Networks.model_validate(tomllib.loads(text))
    except ValueError:  # It quotes the URL.
        raise InvalidInputError(
            "shows what no network can have: compare --name, tokens, their decimals and"
            " fees with the documentation of the network",
            field="the node",
        ) from None
    document = {"name": name, "kind": entry["kind"], **asdict(found)}
    return Result(document, [text] if out is None else [_write(out, text)])


def _ask(url: str, tokens: Sequence[str]) -> Probe:
    from backends.json_rpc.client import check_url
    from backends.json_rpc.probe import probe

    try:
        found = probe(check_url(url, 1), _SECONDS, tokens)
    except ChainError as e:
        raise InvalidInputError(
            f"gives no usable answer ({e}): check URL and API key, and that this host"
            " reaches it",
            field="the node",
        ) from None
    for token in found.tokens:
        if token.decimals is None or not token.symbol:
            problem = f"{token.address} is no token of chain {found.chain_id}"
            raise InvalidInputError(f"{problem}: compare both", field="--token")
    return found


def _find_preset(chain_id: int) -> str | None:
    found = (n for n, each in PRESETS.items() if each["chain_id"] == chain_id)
    return next(found, None)


def _entry(found: Probe, preset: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the file says of the network: *preset*, or what was *found*."""
    from backends.json_rpc.probe import guess_kind, is_near
    from signer.config.networks import KINDS

    kind = preset.get("kind") or guess_kind(found)
    entry: dict[str, Any] = {**preset, "chain_id": found.chain_id, "kind": kind}
    expected = {**KINDS.get(kind or "", {}), **preset}
    seconds = expected.get("block_seconds")
    if found.block_seconds and (
        not seconds or not is_near(seconds, found.block_seconds)
    ):
        entry["block_seconds"] = found.block_seconds
    fees = "eip-1559" if found.has_base_fee else "legacy"
    # Blocks do not show the form that pays in a token.
    if expected.get("fees") in _SHOWN_FEES - {fees} and "fees" not in preset:
        entry["fees"] = fees
    tag = expected.get("finality", "confirmations")
    if tag != "confirmations" and getattr(found, tag) is None:
        entry["finality"] = "confirmations"
    if kind is None:
        entry["confirmations"] = _UNKNOWN_DEPTH
    if not found.has_pending:
        entry["pending"] = "none"
    if found.batch < expected.get("rpc_batch", 50):
        entry["rpc_batch"] = found.batch
    cap = max(1, math.ceil(_FEE_FACTOR * found.price / 10**9))
    caps = {"max_fee": cap, "max_priority_fee": max(1, cap // _FEE_FACTOR)}
    tokens = {
        each.symbol: {"address": each.address, "decimals": each.decimals}
        for each in found.tokens
    }
    entry["tokens"] = tokens or preset.get("tokens", {})
    if not entry["tokens"]:
        problem = f"of chain {found.chain_id} is unknown: add --token ADDRESS"
        raise InvalidInputError(problem, field="a token")
    return {**caps, **entry}


def _write(path: Path, text: str) -> str:
    """Create *path*, which has a URL with an API key; return a line for people."""
    from signer.private_files import create_once

    if not create_once(path, text.encode):
        raise InvalidInputError(f"{path} exists: choose another name", field="--out")
    return f"wrote {path}"
