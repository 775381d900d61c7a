"""
The rules of a vault (``contracts/``), as a quorum of nodes reads them.

``find_problems`` compares them with the configuration and the key ring, at the start of
a process, while it runs, and for ``hotwallet vault status``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from signer.amounts import format_units, parse_units
from signer.chain.erc20 import encode_balance_of
from signer.chain.vault import has_vault_code
from signer.config.networks import Network, Token
from signer.errors import EncodingError, ExecutionRevertedError, Refusal
from signer.model.key import Key, find_active_key
from signer.ports.chain import Call, ChainClient, Log


PROPOSED_EVENT = keccak(text="Proposed(bytes,uint256)")

_LEAST_DELAY = 3600  # Seconds.


@dataclass(frozen=True, slots=True)
class Caps:
    """What an item, and all items of a UTC day, may pay of a token, in base units."""

    per_item: int
    per_day: int


@dataclass(frozen=True, slots=True)
class VaultState:
    """
    What decides whether an operator may pay of a token now, in base units.

    ``spent`` was paid on ``day``, counted from 1970-01-01, which may be over.
    """

    is_operator: bool
    caps: Caps
    spent: int
    day: int
    balance: int


@dataclass(frozen=True, slots=True)
class VaultFacts:
    """
    The rules of a vault, as far as a network and its keys depend on them.

    ``operators`` are those of the keys that were asked about which may pay, and
    ``caps`` has the caps of each token, by symbol.  ``delay`` is in seconds.
    """

    guardian: str
    delay: int
    operators: frozenset[str]
    caps: Mapping[str, Caps]


class VaultRules:
    """
    Reads the vault at *address* through *client*.

    What another contract answers means nothing: ask ``is_vault`` first.  Each method
    raises as ``ChainClient.call``, and ``EncodingError`` if the answer is no value.
    """

    def __init__(self, client: ChainClient, address: str) -> None:
        self.address = address
        self._client = client

    def is_vault(self) -> bool:
        return has_vault_code(self._client.code(self.address))

    def read(self, network: Network, addresses: Iterable[str]) -> VaultFacts:
        """Return the rules for *network*, and which of *addresses* may pay."""
        return VaultFacts(
            self.guardian(),
            self.delay(),
            frozenset(filter(self.is_operator, addresses)),
            {name: self.caps(each.address) for name, each in network.tokens.items()},
        )

    def guardian(self) -> str:
        """Return the address that sets the rules."""
        (address,) = self._read(["address"], "guardian()")
        return to_checksum_address(address)

    def delay(self) -> int:
        """Return the seconds between a proposal and the call that it permits."""
        (seconds,) = self._read(["uint64"], "delay()")
        return int(seconds)

    def is_operator(self, address: str) -> bool:
        """Return whether *address* may pay."""
        (allowed,) = self._read(["bool"], "isOperator(address)", address)
        return bool(allowed)

    def caps(self, token: str) -> Caps:
        return Caps(*self._read(["uint96", "uint96"], "caps(address)", token))

    def spent(self, token: str, day: int) -> int:
        """Return what was paid of *token* on *day*, counted from 1970-01-01."""
        amount, counted = self._read(["uint96", "uint64"], "spending(address)", token)
        return int(amount) if counted == day else 0

    def state(self, operator: str, token: str) -> VaultState:
        """Return, with one request, whether and what *operator* may pay of *token*."""
        asked = (
            (["bool"], "isOperator(address)", operator),
            (["uint96", "uint96"], "caps(address)", token),
            (["uint96", "uint64"], "spending(address)", token),
        )
        answers = self._client.call_all(
            [
                *(self._ask(signature, argument) for _, signature, argument in asked),
                Call(None, token, encode_balance_of(self.address)),
            ]
        )
        (allowed,), caps, (spent, day) = (
            _parse(types, signature, answer)
            for (types, signature, _), answer in zip(asked, answers[:-1], strict=True)
        )
        balance = int.from_bytes(answers[-1], "big")
        return VaultState(bool(allowed), Caps(*caps), spent, day, balance)

    def due_at(self, call: bytes) -> int:
        """Return the second from which the proposed *call* may be made; 0 if never."""
        arguments = (self.guardian(), keccak(call))
        (second,) = self._read(["uint256"], "dueAt(address,bytes32)", *arguments)
        return int(second)

    def pending(self, events: Iterable[Log]) -> Mapping[bytes, int]:
        """
        Return the calls that are proposed, and the second from which each may be made.

        *events* are all of ``PROPOSED_EVENT``: the contract keeps hashes only.
        """
        calls = dict.fromkeys(_parse_proposal(each) for each in events)
        due = {call: self.due_at(call) for call in calls}
        return {call: second for call, second in due.items() if second}

    def permits(self, sender: str, call: bytes) -> bool:
        """Return whether *sender* can make *call* now."""
        try:
            self._client.call(Call(sender, self.address, call))
        except ExecutionRevertedError:
            return False
        return True

    def _read(self, types: Sequence[str], signature: str, *arguments: object) -> Any:
        answer = self._client.call(self._ask(signature, *arguments))
        return _parse(types, signature, answer)

    def _ask(self, signature: str, *arguments: object) -> Call:
        return Call(None, self.address, encode_call(signature, *arguments))


@lru_cache
def encode_call(signature: str, *arguments: object) -> bytes:
    """Return the calldata of a function, such as ``"addOperator(address)"``."""
    kinds = signature.partition("(")[2].removesuffix(")")
    types = kinds.split(",") if kinds else []
    return keccak(text=signature)[:4] + encode(types, arguments)


def _parse(types: Sequence[str], signature: str, answer: bytes) -> Any:
    try:
        return decode(types, answer)
    except DecodingError:
        raise EncodingError(f"{signature} of the vault has no value") from None


def _parse_proposal(event: Log) -> bytes:
    try:
        call, _ = decode(["bytes", "uint256"], event.data)
    except DecodingError:
        raise EncodingError("an event of the vault is no proposal") from None
    return bytes(call)


NO_VAULT = Refusal(
    "vault-code-wrong",
    "the address does not have the code of a vault; correct it, or deploy a vault with"
    " `hotwallet vault deploy`",
)


def find_problems(
    name: str,
    network: Network,
    facts: VaultFacts,
    ring: Sequence[Key],
    *,
    is_production: bool,
) -> Iterator[Refusal]:
    """
    Yield why the vault of the network *name* must not pay, or cannot.

    *facts* know whether the active key of *ring* may pay.
    """
    propose = f"`hotwallet vault propose --network {name}"
    active = find_active_key(ring)
    if facts.guardian in {key.address for key in ring}:
        yield Refusal(
            "vault-guardian-own",
            f"the guardian {facts.guardian} is a key of the service: its thief could"
            f" raise the caps; let another address take over: {propose} --guardian"
            " ADDRESS`",
        )
    if active is not None and active.address not in facts.operators:
        yield missing_operator(name, active.address)
    if is_production and facts.delay < _LEAST_DELAY:
        yield Refusal(
            "vault-delay-missing",
            "its delay is below an hour, so no raised cap can be cancelled in time;"
            " deploy another vault, because a delay cannot be changed",
        )
    for symbol, token in network.tokens.items():
        yield from find_cap_problems(name, symbol, token, facts.caps[symbol])


def missing_operator(name: str, address: str) -> Refusal:
    """Return the refusal of a key that may not pay on the network *name*."""
    return Refusal(
        "vault-operator-missing",
        f"the key of {address} may not pay; its guardian adds it: `"
        f"{change_operator('add', name, address)}`",
    )


def change_operator(verb: str, name: str, address: str) -> str:
    """Return the command that proposes to *verb* (add, remove) an operator."""
    return f"hotwallet vault propose --network {name} --{verb}-operator {address}"


def find_cap_problems(
    name: str, symbol: str, token: Token, caps: Caps
) -> Iterator[Refusal]:
    """Yield why a vault of the network *name* must not have *caps* of a token."""
    propose = f"`hotwallet vault propose --network {name}"
    if 0 in (caps.per_item, caps.per_day):
        yield Refusal(
            "vault-caps-missing",
            f"the caps of {symbol} are 0, so nothing can be paid; its guardian sets"
            f" them: {propose} --caps {symbol}=ITEM/DAY`",
        )
    # Without a daily limit, the chain's cap is the only one.
    given = (
        ("an item", caps.per_item, "max_amount", token.max_amount),
        ("a day", caps.per_day, "daily_limit", token.daily_limit),
    )
    for what, cap, setting, limit in given:
        if limit is not None and cap > parse_units(limit, token.decimals):
            shown = format_units(cap, token.decimals)
            yield Refusal(
                "vault-caps-above-limits",
                f"the cap of {symbol} for {what} is {shown}, above {setting}, which is"
                f" {limit}; lower the cap: {propose} --caps {symbol}=ITEM/DAY`, or"
                " raise the limit",
            )
