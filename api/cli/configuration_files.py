"""The texts of the files that ``hotwallet init`` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

from api.cli.presets import PLACEHOLDER_URL, NetworkPreset


_NETWORKS = """\
# Networks and tokens that refunds may use: docs/reference/networks.md.
# URLs contain API keys: keep this file as secret as the database's password.
"""

_TENANTS = """\
# Who may request refunds, and their limits: docs/reference/tenants.md.

[tenants.shop]
# The `sub` claims of its tokens, or with client_ids their `client_id` claims.
subjects = ["shop"]
max_open_refunds = 1000
requests_per_minute = 600

# The shop signs its requests, so that no host of the API can invent one:
# docs/how-to/sign-requests.md
# [tenants.shop.request_keys]
# gateway = \"\"\"
# -----BEGIN PUBLIC KEY-----
# ...
# -----END PUBLIC KEY-----
# \"\"\"
"""


def networks_text(
    networks: Sequence[NetworkPreset], urls: Mapping[str, Sequence[str]]
) -> str:
    """Return the networks file; a network without *urls* gets a placeholder."""
    parts = [_network_lines(each, urls.get(each.name, ())) for each in networks]
    return _NETWORKS + "".join(f"\n{line}" for lines in parts for line in lines) + "\n"


def tenants_text() -> str:
    """Return the tenants file."""
    return _TENANTS


def variable_names() -> frozenset[str]:
    """Return the variables that the service reads."""
    return frozenset(re.findall(r"^([A-Z0-9_]+)=", _env_template(), re.MULTILINE))


def env_text(values: Mapping[str, str]) -> str:
    """
    Return the environment file: every variable with its comment, and *values*.

    Raises:
        ValueError: A name of *values* is no variable; a programming error.
    """
    template = _env_template()
    for name, value in values.items():
        line = re.compile(rf"^{name}=.*$", re.MULTILINE)
        template, count = line.subn(f"{name}={value}".replace("\\", r"\\"), template)
        if count != 1:
            raise ValueError(f"{name} is no variable")
    return template


def _env_template() -> str:
    return files("api.cli").joinpath("env.example").read_text(encoding="utf-8")


def _network_lines(preset: NetworkPreset, urls: Sequence[str]) -> Iterator[str]:
    name = json.dumps(preset.name) if "." in preset.name else preset.name
    yield f"[networks.{name}]"
    yield f"chain_id = {preset.chain_id}"
    yield "# Use three nodes, from three providers: one that lies is then outvoted."
    yield f"rpc_urls = {json.dumps(list(urls) or [PLACEHOLDER_URL])}"
    yield f"# {preset.reason[0].upper()}{preset.reason[1:]}."
    yield f"confirmations = {preset.confirmations}"
    yield "# Caps of every transaction, also of replacements."
    yield f"max_fee_per_gas_gwei = {preset.max_fee}"
    yield f"max_priority_fee_per_gas_gwei = {preset.max_priority_fee}"
    yield "# The console links to it; the service sends it nothing."
    yield f'explorer = "{preset.explorer}"'
    for token in preset.tokens:
        yield ""
        yield f"[networks.{name}.tokens.{token.symbol}]"
        yield f"# Compare it with the issuer's list: {token.source}"
        yield f'address = "{token.address}"'
        yield "decimals = 6"
        yield "# Of one refund, in whole tokens.  Set what is normal for you."
        yield 'max_amount = "100"'
        yield 'min_amount = "1"'
        yield '# daily_limit = "5000"'
        yield '# approve_above = "50"'
    yield ""
