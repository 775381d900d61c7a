"""The rules of a vault (``contracts/``), as a quorum of nodes reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from signer.chain.vault import has_vault_code
from signer.errors import EncodingError, ExecutionRevertedError
from signer.ports.chain import Call, ChainClient


@dataclass(frozen=True, slots=True)
class Caps:
    """What an item, and all items of a UTC day, may pay of a token, in base units."""

    per_item: int
    per_day: int


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

    def due_at(self, call: bytes) -> int:
        """Return the second from which the proposed *call* may be made; 0 if never."""
        arguments = (self.guardian(), keccak(call))
        (second,) = self._read(["uint256"], "dueAt(address,bytes32)", *arguments)
        return int(second)

    def permits(self, sender: str, call: bytes) -> bool:
        """Return whether *sender* can make *call* now."""
        try:
            self._client.call(Call(sender, self.address, call))
        except ExecutionRevertedError:
            return False
        return True

    def _read(self, types: Sequence[str], signature: str, *arguments: object) -> Any:
        data = encode_call(signature, *arguments)
        answer = self._client.call(Call(None, self.address, data))
        try:
            return decode(types, answer)
        except DecodingError:
            raise EncodingError(f"{signature} of the vault has no value") from None


def encode_call(signature: str, *arguments: object) -> bytes:
    """Return the calldata of a function, such as ``"addOperator(address)"``."""
    kinds = signature.partition("(")[2].removesuffix(")")
    types = kinds.split(",") if kinds else []
    return keccak(text=signature)[:4] + encode(types, arguments)
