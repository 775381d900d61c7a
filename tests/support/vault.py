"""A vault on a local chain: its guardian and operators are accounts of the node."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from eth_abi.abi import decode, encode
from eth_utils.address import to_checksum_address

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from dev.rpc import RPC
from signer.chain.vault import End, Item, encode_pay, read_ends
from signer.ports.chain import Receipt
from tests.support.rpc import receipt_of


DELAY = 2 * 86_400
_ARTEFACT = files("signer.chain").joinpath("vault.json")


def gas_bound(count: int) -> int:
    """Return a gas limit with which no token can make *count* items revert."""
    return 100_000 + 306_000 * count


@dataclass(frozen=True)
class LocalVault:
    """The vault at *address*, with one token that has caps."""

    url: str
    address: str
    token: str
    guardian: str
    operators: tuple[str, ...]

    @property
    def rpc(self) -> RPC:
        """Calls the node, without the code under test."""
        return RPC(self.url)

    def send(self, sender: str, data: bytes, gas: int = 2_000_000) -> dict[str, Any]:
        """
        Call the vault in a transaction of *sender*, and return the receipt.

        Raises:
            RPCError: The transaction failed.
        """
        transaction = {"from": sender, "to": self.address, "data": "0x" + data.hex()}
        receipt: dict[str, Any] = self.rpc.transact({**transaction, "gas": hex(gas)})
        return receipt

    def call(self, sender: str, signature: str, *arguments: object) -> dict[str, Any]:
        """Call a function such as ``"removeOperator(address)"``."""
        return self.send(sender, coin.calldata(signature, *arguments))

    def read(self, types: Sequence[str], signature: str, *arguments: object) -> Any:
        """Return the values of a view such as ``"caps(address)"``."""
        data = "0x" + coin.calldata(signature, *arguments).hex()
        answer = self.rpc("eth_call", {"to": self.address, "data": data}, "latest")
        return decode(types, bytes.fromhex(answer[2:]))

    def pay(self, items: Sequence[Item], gas: int | None = None) -> Receipt:
        """Pay *items* as the first operator; the receipt is the client's."""
        data = encode_pay(self.token, items)
        sent = self.send(self.operators[0], data, gas or gas_bound(len(items)))
        client = JSONRPCChain([self.url], timeout=10)
        receipt = receipt_of(client, sent["transactionHash"])
        assert receipt, "not mined"
        return receipt

    def ends(self, items: Sequence[Item]) -> tuple[End, ...]:
        logs = self.pay(items).logs
        return read_ends(logs, vault=self.address, token=self.token, items=items)

    def balance(self) -> int:
        """Return what the vault holds of its token."""
        return coin.balance_of(self.url, self.token, self.address)

    def after_delay(self, signature: str, *arguments: object) -> None:
        """Let the guardian propose a call, and make it after the delay."""
        change = coin.calldata(signature, *arguments)
        self.call(self.guardian, "propose(bytes)", change)
        self.rpc("evm_increaseTime", DELAY)
        self.send(self.guardian, change)


def deploy_vault(
    url: str,
    token: str,
    *,
    caps: tuple[int, int],
    funds: int,
    operators: Iterable[str] = (),
    guardian: str | None = None,
    delay: int = DELAY,
) -> LocalVault:
    """Deploy a vault with *caps* per item and day, and mint *funds* to it."""
    rpc = RPC(url)
    accounts = rpc("eth_accounts")
    # geth has only one.
    guardian, chosen = guardian or accounts[:2][-1], tuple(operators or accounts[2:4])
    arguments = encode(
        ["address", "uint64", "address[]", "(address,(uint96,uint96))[]"],
        [guardian, delay, chosen, [(token, caps)]],
    )
    code = json.loads(_ARTEFACT.read_text("utf-8"))["bytecode"] + arguments.hex()
    sender = coin.issuer(url)
    receipt = rpc.transact({"from": sender, "data": code, "gas": hex(3_000_000)})
    address = to_checksum_address(receipt["contractAddress"])
    coin.administer(url, token, "mint(address,uint256)", address, funds)
    return LocalVault(url, address, token, guardian, chosen)
