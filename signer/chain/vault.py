"""
The vault (``contracts/``): calldata of ``pay``, the end of each item, and its rules.

A vault pays the items of a transaction one by one.  It emits one event for each, in
their order, so the receipt says how each of them ended.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from signer.amounts import format_units, parse_units
from signer.chain.erc20 import encode_balance_of, has_exact_transfer
from signer.config.networks import Network, Token
from signer.errors import EncodingError, ExecutionRevertedError, Refusal
from signer.model.key import Key, find_active_key
from signer.ports.chain import Call, ChainClient, Log


CODE_HASH = bytes.fromhex(
    "8ae950a17840c4594f36854704622dd376f1e1630845841601eef0eeeb244862"
)
"""The hash of the code of every vault: ``code_hash`` in ``vault.json``."""

PAY = keccak(text="pay(address,bytes)")[:4]
PAID_EVENT = keccak(text="Paid(bytes16)")
SKIPPED_EVENT = keccak(text="Skipped(bytes16,uint256,uint8)")

MARK_SIZE = 16
"""Bytes that name an item, in calldata and events (``Refund.memo``)."""

MAX_AMOUNT = 2**96 - 1

_ADDRESS_SIZE, _AMOUNT_SIZE = 20, 12
_ITEM_SIZE = _ADDRESS_SIZE + _AMOUNT_SIZE + MARK_SIZE

ITEM_GAS = 300_000
"""What a token may use for one item: ``Vault.ITEM_GAS``."""

TRANSACTION_GAS = 21_000
"""What a transaction costs before it does anything.  A batch pays it once."""

# ``TRANSACTION_GAS``, the caps and the day's sum, and ``Vault.MIN_GAS``, which
# must be left before the last item.
_BATCH_GAS = 380_000


class Reason(IntEnum):
    """Why a vault skipped an item; the numbers are those of ``Vault.End``."""

    NOT_WITHIN_ITEM_CAP = 1
    ABOVE_DAY_CAP = 2
    NO_CODE = 3
    REVERTED = 4
    NOT_TRUE = 5


@dataclass(frozen=True, slots=True)
class Item:
    """A payment of *amount* base units, with a mark of 16 bytes."""

    recipient: str
    amount: int
    mark: bytes


@dataclass(frozen=True, slots=True)
class End:
    """
    How an item ended: *reason* is None if the token took the vault's call.

    *has_transfer* says whether the token's own event proves the payment.  A token that
    lies has one without the other.
    """

    reason: Reason | None
    has_transfer: bool


def has_vault_code(code: bytes) -> bool:
    """Return whether *code*, that of an address, is that of a vault."""
    return keccak(code) == CODE_HASH


def batch_gas(limits: Iterable[int]) -> int:
    """
    Return the gas limit of a batch of items that may have *limits*.

    A vault adds less to an item than the calldata of a transaction of its own does.
    """
    return _BATCH_GAS + sum(limits)


def item_gas(gas: int, count: int) -> int:
    """Return the share of each of *count* items in the gas limit of a batch."""
    return max(0, gas - _BATCH_GAS) // count


def encode_pay(token: str, items: Iterable[Item]) -> bytes:
    """
    Return the calldata of ``pay(token, items)``.

    Raises:
        EncodingError: An address is none, an amount is not in 1 ... ``MAX_AMOUNT``, or
            a mark has another size.
    """
    try:
        packed = b"".join(map(_encode_item, items))
        return PAY + encode(["address", "bytes"], [_read_address(token), packed])
    except (OverflowError, ValueError):
        raise EncodingError("an item cannot be paid by a vault") from None


def _encode_item(item: Item) -> bytes:
    if item.amount <= 0 or len(item.mark) != MARK_SIZE:
        raise ValueError
    amount = item.amount.to_bytes(_AMOUNT_SIZE, "big")
    return _read_address(item.recipient) + amount + item.mark


def _read_address(text: str) -> bytes:
    address = bytes.fromhex(text.removeprefix("0x"))  # It skips spaces.
    if len(text) != len("0x") + 2 * _ADDRESS_SIZE or len(address) != _ADDRESS_SIZE:
        raise ValueError
    return address


def decode_pay(calldata: bytes) -> tuple[str, tuple[Item, ...]]:
    """
    Return token and items of a ``pay``; addresses are in lower case.

    Raises:
        EncodingError: *calldata* is not exactly what ``encode_pay`` returns.
    """
    problem = "the calldata is not a payment by a vault"
    if not calldata.startswith(PAY):
        raise EncodingError(problem)
    try:
        token, packed = decode(["address", "bytes"], calldata[len(PAY) :])
    except (DecodingError, OverflowError):
        raise EncodingError(problem) from None
    starts = range(0, len(packed), _ITEM_SIZE)
    items = tuple(_decode_item(packed[start : start + _ITEM_SIZE]) for start in starts)
    # Other offsets, bytes after the arguments, half an item, or an amount of zero.
    if encode_pay(token, items) != calldata:
        raise EncodingError(problem)
    return token, items


def _decode_item(packed: bytes) -> Item:
    recipient, rest = packed[:_ADDRESS_SIZE], packed[_ADDRESS_SIZE:]
    amount = int.from_bytes(rest[:_AMOUNT_SIZE], "big")
    return Item("0x" + recipient.hex(), amount, rest[_AMOUNT_SIZE:])


def read_ends(
    logs: Iterable[Log], *, vault: str, token: str, items: Sequence[Item]
) -> tuple[End, ...]:
    """
    Return the end of each of *items*, in their order.

    *logs* are those of the receipt of a transaction that succeeded, and that called
    ``pay(token, items)`` of *vault*.

    Raises:
        EncodingError: The vault's events are not one for each item, in their order.
    """
    ends: list[End] = []
    since: list[Log] = []  # The events since the last end.
    for log in logs:
        if log.address.lower() != vault.lower():
            since.append(log)
            continue
        if len(ends) == len(items):
            raise EncodingError("the vault ended more items than it had")
        item = items[len(ends)]
        is_proven = has_exact_transfer(
            since,
            token=token,
            sender=vault,
            recipient=item.recipient,
            amount=item.amount,
        )
        ends.append(End(_read_reason(log, len(ends), item.mark), is_proven))
        since.clear()
    if len(ends) != len(items):
        raise EncodingError("the vault ended fewer items than it had")
    return tuple(ends)


def _read_reason(log: Log, index: int, mark: bytes) -> Reason | None:
    topic = mark.ljust(32, b"\0")
    if log == Log(log.address, (PAID_EVENT, topic), b""):
        return None
    if log.topics == (SKIPPED_EVENT, topic):
        for reason in Reason:
            if log.data == encode(["uint256", "uint8"], [index, reason]):
                return reason
    raise EncodingError("an event of the vault is not the end of an item")


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
        """Return whether the address has the code of a vault."""
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
        """Return the caps of *token*; they are 0 if it has none."""
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
