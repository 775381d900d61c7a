"""
What the guardian of a vault signs to change a rule.

A change that gives more power is proposed first and made after the vault's delay.  The
chain knows what was proposed, so the next step of a change follows from the chain.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from eth_abi.abi import decode
from eth_utils.crypto import keccak

from signer.chain.vault import Caps, VaultRules, encode_call


_PROPOSED = _ADD_OPERATOR, _SET_GUARDIAN, _SET_CAPS = (
    "addOperator(address)",
    "setGuardian(address)",
    "setCaps(address,uint96,uint96)",
)


@dataclass(frozen=True, slots=True)
class Change:
    """
    A call of a vault: a function such as ``"addOperator(address)"``, and its arguments.

    ``waits`` says whether it must be proposed.  ``signer`` is None for the guardian.
    """

    function: str
    arguments: tuple[object, ...]
    waits: bool
    signer: str | None = None

    @property
    def data(self) -> bytes:
        return encode_call(self.function, *self.arguments)


@dataclass(frozen=True, slots=True)
class Step:
    """
    What *signer* signs now: *data* is the calldata of *function*.

    It is empty while a proposal is not due; *due* is then the time to come back.
    """

    signer: str
    function: str
    data: bytes
    due: datetime | None = None


def add_operator(address: str) -> Change:
    return Change(_ADD_OPERATOR, (address,), waits=True)


def remove_operator(address: str) -> Change:
    return Change("removeOperator(address)", (address,), waits=False)


def set_guardian(address: str) -> Change:
    """Return the change that makes *address* the guardian; it makes the call itself."""
    return Change(_SET_GUARDIAN, (address,), waits=True, signer=address)


def set_caps(token: str, caps: Caps, now: Caps) -> Change:
    is_more = caps.per_item > now.per_item or caps.per_day > now.per_day
    arguments = (token, caps.per_item, caps.per_day)
    return Change(_SET_CAPS, arguments, waits=is_more)


def withdraw(token: str, amount: int) -> Change:
    """Return the change that sends *amount* base units to the guardian."""
    return Change("withdraw(address,uint256)", (token, amount), waits=False)


def describe(call: bytes) -> str:
    """Return a proposed *call* as text, such as ``addOperator(0x...)``."""
    for function in _PROPOSED:
        name, _, kinds = function.removesuffix(")").partition("(")
        if call[:4] == keccak(text=function)[:4]:
            values = decode(kinds.split(","), call[4:])
            return f"{name}({', '.join(map(str, values))})"
    return f"0x{call.hex()}"


def find_step(rules: VaultRules, change: Change, *, cancels: bool = False) -> Step:
    """
    Return the next step of *change*, or with *cancels* what withdraws its proposal.

    Raises:
        ChainUnavailableError: The nodes do not answer.
    """
    guardian = rules.guardian()
    if cancels:
        data = encode_call("cancel(bytes)", change.data)
        return Step(guardian, "cancel(bytes)", data)
    due_at = rules.due_at(change.data) if change.waits else 0
    if change.waits and due_at == 0:
        data = encode_call("propose(bytes)", change.data)
        return Step(guardian, "propose(bytes)", data)
    signer = change.signer or guardian
    if change.waits and not rules.permits(signer, change.data):
        return Step(signer, change.function, b"", datetime.fromtimestamp(due_at, UTC))
    return Step(signer, change.function, change.data)


def safe_file(
    chain_id: int, vault: str, step: Step, now: datetime
) -> Mapping[str, Any]:
    """Return the document that Safe's transaction builder opens."""
    transactions: Sequence[Mapping[str, Any]] = [
        {
            "to": vault,
            "value": "0",
            "data": "0x" + step.data.hex(),
            "contractMethod": None,
            "contractInputsValues": None,
        }
    ]
    return {
        "version": "1.0",
        "chainId": str(chain_id),
        "createdAt": int(now.timestamp() * 1000),
        "meta": {
            "name": f"hotwallet vault: {step.function}",
            "createdFromSafeAddress": step.signer,
        },
        "transactions": transactions,
    }


def creation_code() -> bytes:
    """Return the code that creates a vault; the constructor's arguments follow it."""
    text = files("signer.chain").joinpath("vault.json").read_text("utf-8")
    return bytes.fromhex(json.loads(text)["bytecode"].removeprefix("0x"))
