"""
The networks and tokens that refunds may use, from one TOML file.

::

    [networks.local]
    chain_id = 31337
    rpc_urls = ["http://127.0.0.1:8545"]
    confirmations = 2
    max_fee_per_gas_gwei = 500

    [networks.local.tokens.TUSD]
    address = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
    decimals = 6
    max_amount = "1000"
"""

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from eth_utils.address import is_checksum_address
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from signer.amounts import COIN_DECIMALS, parse_units
from signer.config.models import (
    LEAST,
    MOST,
    NOT_LIMITING,
    StrictModel,
    as_tuple,
    read_toml,
)
from signer.errors import InvalidInputError


_EXPLORER = re.compile(
    r"https://[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~-]+)*/?"
)


_TABLE = files("signer.config").joinpath("network_kinds.toml").read_text("utf-8")

KINDS: Mapping[str, Mapping[str, Any]] = tomllib.loads(_TABLE)
"""The kinds of networks, each with its defaults; ``chain_ids`` have them without it."""

GWEI = 10**9
"""In wei: the unit of fees in the file."""

PRICE_DECIMALS = 18
"""The most digits of a price after the point."""


def _checksummed(address: str) -> str:
    if not is_checksum_address(address):
        raise ValueError("must be an address with an EIP-55 checksum")
    return address


Address = Annotated[str, AfterValidator(_checksummed)]


def _https_base(url: str) -> str:
    """Return *url* without a slash at its end; it becomes part of links on pages."""
    if not _EXPLORER.fullmatch(url):
        raise ValueError(
            "must be an https URL of a host, with at most a path: no user, query or"
            " fragment"
        )
    return url.rstrip("/")


Finality = Literal["confirmations", "safe", "finalized"]

FeeForm = Literal["eip-1559", "legacy", "tempo"]
"""How the transactions of a network pay for gas."""

TOKEN_FEES: Mapping[FeeForm | None, int] = {"tempo": 0x76}
"""The forms whose transactions name a token for their fee, and their type."""

SIGNED_TYPES = (0, 1, 2, *TOKEN_FEES.values())
"""What the service signs: 3 has blobs, and 4 sets code."""


NOOP_GAS = 21_000
"""Gas of a transaction without calldata to an account (Yellow Paper, appendix G)."""

_TEMPO_ACCOUNT_GAS = 279_000
"""At least the 250,000 that the first nonce of an account costs (TIP-1000)."""


class Token(StrictModel):
    """
    One ERC-20 contract.

    ``min_amount`` and ``max_amount`` limit one refund, in whole tokens, and ``max_gas``
    the gas of its transaction.  A refund of more than ``approve_above`` needs an
    approval.  The other limits bound all refunds of an hour or a day together; None
    means no limit.  ``reference_price`` is the price of a whole token in the operator's
    currency, which is the same for all tokens.  When the wallet holds less than
    ``top_up_below``, its worker asks the treasury for what ``top_up_to`` needs.
    """

    address: Address
    decimals: int = Field(ge=0, le=36)
    max_amount: Annotated[str, MOST]
    min_amount: Annotated[str | None, LEAST] = None
    approve_above: Annotated[str | None, MOST] = None
    # 2**24: EIP-7825.
    max_gas: Annotated[int, MOST] = Field(default=2_000_000, ge=21_000, le=2**24)
    hourly_limit: Annotated[str | None, MOST] = None
    daily_limit: Annotated[str | None, MOST] = None
    daily_limit_per_recipient: Annotated[str | None, MOST] = None
    reference_price: Annotated[str | None, LEAST] = None
    # The treasury's own limits bound what it pays.
    top_up_below: Annotated[str | None, NOT_LIMITING] = None
    top_up_to: Annotated[str | None, NOT_LIMITING] = None

    @model_validator(mode="after")
    def _limits_are_amounts(self) -> Self:
        largest = self._units("max_amount")
        for name in ("hourly_limit", "daily_limit", "daily_limit_per_recipient"):
            if getattr(self, name) is not None and self._units(name) < largest:
                raise ValueError(f"{name} must not be less than max_amount")
        if self.min_amount is not None and self._units("min_amount") > largest:
            raise ValueError("min_amount must not be more than max_amount")
        if self.approve_above is not None and self._units("approve_above") >= largest:
            raise ValueError("approve_above must be less than max_amount")
        if self.reference_price is not None:
            self._units("reference_price", PRICE_DECIMALS)
        return self

    @model_validator(mode="after")
    def _top_up_raises_the_balance(self) -> Self:
        if (self.top_up_below is None) is not (self.top_up_to is None):
            raise ValueError("top_up_below and top_up_to need each other")
        if self.top_up is not None and self.top_up[0] >= self.top_up[1]:
            raise ValueError("top_up_below must be less than top_up_to")
        return self

    @property
    def top_up(self) -> tuple[int, int] | None:
        """``top_up_below`` and ``top_up_to`` in base units; None without them."""
        if self.top_up_below is None:
            return None
        return self._units("top_up_below"), self._units("top_up_to")

    def in_coin(self, amount: int) -> int:
        """Return *amount* in the units of a coin that is the token (``coin_is``)."""
        unit: int = 10 ** (COIN_DECIMALS - self.decimals)
        return amount * unit

    def _units(self, name: str, decimals: int | None = None) -> int:
        try:
            return parse_units(
                getattr(self, name), self.decimals if decimals is None else decimals
            )
        except InvalidInputError as e:
            raise ValueError(f"{name} {e}") from None


class AutomaticStopRules(StrictModel):
    """
    Rules that stop a network (``signer/refunds/automatic_stop.py``); all are off.

    ``max_refunds`` and ``max_amounts`` (whole tokens, by symbol) bound what is signed
    in ``window_minutes``.  ``max_failed_percent`` bounds the failures among the
    ``failed_of_last`` newest results, and ``max_gas_per_hour`` the gas limits of all
    transactions.
    """

    window_minutes: Annotated[int, LEAST] = Field(default=10, ge=1, le=60)
    max_refunds: Annotated[int | None, MOST] = Field(default=None, ge=1)
    max_amounts: Annotated[dict[str, str], MOST] = Field(default_factory=dict)
    max_failed_percent: Annotated[int | None, MOST] = Field(default=None, ge=1, le=99)
    failed_of_last: Annotated[int, MOST] = Field(default=20, ge=5, le=1000)
    max_gas_per_hour: Annotated[int | None, MOST] = Field(default=None, ge=21_000)

    @property
    def has_rules(self) -> bool:
        rules = (self.max_refunds, self.max_failed_percent, self.max_gas_per_hour)
        return bool(self.max_amounts) or any(rule is not None for rule in rules)


class Network(StrictModel):
    """
    One chain.

    ``kind`` names a table of ``network_kinds.toml``: defaults of other fields.
    ``confirmations`` counts the blocks from the transaction's block to the head, both
    included; a block is final once it has them, and once the nodes call it safe or
    finalized if ``finality`` says so.  ``block_seconds`` is the usual time between two
    blocks; None is unknown.  ``pending`` is ``none`` if nodes do not count what waits.
    ``fees`` is how a transaction pays for gas: ``tempo`` is in ``coin_is``, which
    transactions of type 0x76 name.  None is what the newest block shows.
    ``data_fee`` is what a rollup charges besides gas.  ``coin_is`` is the token that
    pays for gas: both are one balance.
    ``rpc_urls`` are secrets, because they often contain an API key.  Their nodes take
    ``rpc_batch`` requests at once.
    ``max_fee_per_gas_gwei`` bounds every fee, including those of replacements and the
    gas price on chains without EIP-1559.  ``max_priority_fee_per_gas_gwei`` and
    ``base_fee_multiple`` determine the fee of the first attempt.  A refund waits while
    its max fee would be over ``max_fee_factor`` times its wallet's recent median; 0
    turns that off.
    ``stuck_after_seconds`` is how long an attempt may wait before its fee is raised.
    ``max_in_flight`` bounds the transactions of a wallet that have no receipt; 0 is no
    bound.
    ``vault`` is the contract (``contracts/``) that holds the tokens: None if the wallet
    holds them.  One transaction pays at most ``max_batch`` refunds out of it, and a
    refund may wait ``batch_wait`` seconds for others.
    ``gas_per_hour`` bounds the gas limits of all refunds that get a nonce in one hour;
    None means no limit.  The alert ``low-balance`` is raised when the wallet can pay
    fewer than ``low_balance_refunds`` more refunds, or for less than
    ``low_balance_hours``; 0 turns a bound off.  The alert ``chain-stalled`` is raised
    when the newest block has not changed for ``stalled_after_seconds``; 0 turns it off,
    for a chain without regular blocks.  ``explorer`` is the https address of a
    block explorer, to which the console links; the service sends it no request.
    """

    # The audit's JSON records contain it; JavaScript reads integers up to 2**53.
    chain_id: int = Field(gt=0, lt=2**53)
    rpc_urls: Annotated[
        tuple[SecretStr, ...], BeforeValidator(as_tuple), NOT_LIMITING
    ] = Field(min_length=1)
    tokens: dict[str, Token] = Field(min_length=1)
    kind: Annotated[str | None, NOT_LIMITING] = None
    confirmations: Annotated[int, LEAST] = Field(12, ge=1)
    finality: Finality = "confirmations"
    block_seconds: Annotated[float | None, NOT_LIMITING] = Field(None, gt=0, le=600)
    pending: Annotated[Literal["pool", "none"], NOT_LIMITING] = "pool"
    fees: Annotated[FeeForm | None, NOT_LIMITING] = None
    data_fee: Annotated[Literal["op-stack"] | None, NOT_LIMITING] = None
    coin_is: Annotated[str | None, NOT_LIMITING] = None
    max_fee_per_gas_gwei: Annotated[int, MOST] = Field(500, gt=0)
    max_priority_fee_per_gas_gwei: Annotated[int, MOST] = Field(50, ge=0)
    base_fee_multiple: Annotated[int, MOST] = Field(2, ge=1, le=10)
    max_fee_factor: Annotated[int, MOST] = Field(10, ge=0)
    rpc_timeout_ms: Annotated[int, NOT_LIMITING] = Field(5000, ge=100)
    # The largest batch that public endpoints with a limit accept.
    rpc_batch: Annotated[int, NOT_LIMITING] = Field(50, ge=1, le=50)
    stuck_after_seconds: Annotated[int, NOT_LIMITING] = Field(90, ge=1)
    # geth keeps so many of one account in a pool that is full.
    max_in_flight: Annotated[int, NOT_LIMITING] = Field(16, ge=0)
    # It decides whose tokens pay: every change needs an approval.
    vault: Address | None = None
    max_batch: Annotated[int, MOST] = Field(100, ge=1, le=100)
    batch_wait: Annotated[int, NOT_LIMITING] = Field(0, ge=0, le=60)
    gas_per_hour: Annotated[int | None, MOST] = Field(None, gt=0)
    low_balance_refunds: Annotated[int, NOT_LIMITING] = Field(50, ge=0)
    low_balance_hours: Annotated[int, NOT_LIMITING] = Field(12, ge=0)
    stalled_after_seconds: Annotated[int, NOT_LIMITING] = Field(300, ge=0)
    explorer: Annotated[
        Annotated[str, AfterValidator(_https_base)] | None, NOT_LIMITING
    ] = None
    automatic_stop: AutomaticStopRules = AutomaticStopRules()

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_kind(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kind, chain_id = given.get("kind"), given.get("chain_id")
        found: Mapping[str, Any] | None = {}
        if kind is not None:
            found = KINDS.get(str(kind))
        else:
            of_id = (e for e in KINDS.values() if chain_id in e.get("chain_ids", ()))
            found = next(of_id, {})
        if found is None:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}")
        defaults = {key: found[key] for key in found if key != "chain_ids"}
        return {**defaults, **given}

    @model_validator(mode="after")
    def _coin_is_a_token(self) -> Self:
        if self.coin_is is not None:
            if self.coin_is not in self.tokens:
                raise ValueError(f"coin_is: the network has no token {self.coin_is}")
            if self.tokens[self.coin_is].decimals > COIN_DECIMALS:
                raise ValueError(f"coin_is: {self.coin_is} has more decimals than coin")
            if self.vault is not None:
                raise ValueError("coin_is: a vault's tokens pay for no gas")
        elif self.fees in TOKEN_FEES:
            raise ValueError(
                f"coin_is must name the token that pays the fees of {self.fees}"
            )
        return self

    @model_validator(mode="after")
    def _gas_per_hour_allows_a_refund(self) -> Self:
        if (self.gas_per_hour or self.largest_gas) < self.largest_gas:
            raise ValueError(
                "gas_per_hour must not be less than the max_gas of a token, which is"
                f" {self.largest_gas}"
            )
        return self

    @model_validator(mode="after")
    def _stops_are_of_tokens(self) -> Self:
        for symbol, amount in self.automatic_stop.max_amounts.items():
            name = f"automatic_stop.max_amounts.{symbol}"
            if symbol not in self.tokens:
                raise ValueError(f"{name} is no token of the network")
            try:
                parse_units(amount, self.tokens[symbol].decimals)
            except InvalidInputError as e:
                raise ValueError(f"{name} {e}") from None
        return self

    @property
    def per_batch(self) -> int:
        """How many refunds one transaction may pay."""
        return 1 if self.vault is None else self.max_batch

    @property
    def window(self) -> int | None:
        """How many transactions of a wallet may have no receipt; None: any number."""
        return self.max_in_flight or None

    def token_holder(self, wallet: str) -> str:
        """Return the address that holds the tokens: the vault, or else *wallet*."""
        return self.vault or wallet

    @property
    def token_of_coin(self) -> Token | None:
        """The token whose balance pays for gas too; None if there is none."""
        return None if self.coin_is is None else self.tokens[self.coin_is]

    @property
    def fee_token(self) -> Token | None:
        """The token that each transaction names for its fee; None on other chains."""
        return self.token_of_coin if self.fees in TOKEN_FEES else None

    @property
    def noop_gas(self) -> int:
        """The gas limit of a transaction that does nothing."""
        return NOOP_GAS if self.fee_token is None else NOOP_GAS + _TEMPO_ACCOUNT_GAS

    @property
    def topped_up(self) -> Mapping[str, Token]:
        """The tokens that a treasury tops up, by symbol."""
        return {
            symbol: token
            for symbol, token in self.tokens.items()
            if token.top_up is not None
        }

    @property
    def largest_gas(self) -> int:
        """The gas that the transaction of one refund may need, for any token."""
        return max(token.max_gas for token in self.tokens.values())


class Networks(StrictModel):
    """The networks file: networks by the name that the API uses."""

    networks: dict[str, Network] = Field(min_length=1)

    @model_validator(mode="after")
    def _batches_are_of_vaults(self) -> Self:
        for name, network in self.networks.items():
            unused = network.model_fields_set & {"max_batch", "batch_wait"}
            if network.vault is None and unused:
                raise ValueError(
                    f"networks.{name}: only a vault pays refunds together; set vault,"
                    f" or leave out {' and '.join(sorted(unused))}"
                )
        return self


def load_networks(path: Path) -> Mapping[str, Network]:
    """Read the TOML file at *path*, or refuse it (``networks-misconfigured``)."""
    return read_toml(
        path, Networks, variable="NETWORKS_FILE", code="networks-misconfigured"
    ).networks
