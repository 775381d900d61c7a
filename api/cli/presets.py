"""The networks that ``hotwallet init`` knows, with the issuers' lists of addresses."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files


PLACEHOLDER_URL = "https://rpc.example.com/your-key"


@dataclass(frozen=True, slots=True)
class TokenPreset:
    """A stablecoin with six decimals; *source* is its issuer's list of addresses."""

    symbol: str
    address: str
    source: str


@dataclass(frozen=True, slots=True)
class NetworkPreset:
    """
    A network, and why it needs so many confirmations.

    Fee caps are in gwei.  The console links to *explorer*.
    """

    name: str
    chain_id: int
    confirmations: int
    reason: str
    max_fee: int
    max_priority_fee: int
    explorer: str
    tokens: tuple[TokenPreset, ...]


def _read_presets() -> dict[str, NetworkPreset]:
    text = files("api.cli").joinpath("presets.toml").read_text(encoding="utf-8")
    return {
        name: NetworkPreset(
            **row,
            name=name,
            tokens=tuple(TokenPreset(each, **given) for each, given in tokens.items()),
        )
        for name, row in tomllib.loads(text).items()
        for tokens in [row.pop("tokens")]
    }


PRESETS = _read_presets()
