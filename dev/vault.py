"""A vault for a stack: it is deployed with ``hotwallet vault``, and has a guardian."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_utils.address import to_checksum_address

from dev import stablecoin
from dev.rpc import RPC
from dev.stack import NETWORK, SYMBOL, Stack, hotwallet


@dataclass(frozen=True)
class StackVault:
    """The vault at *address*; its *guardian* is an account of the local node."""

    stack: Stack
    address: str
    guardian: str

    @property
    def balance(self) -> int:
        """What it holds, in base units."""
        stack = self.stack
        return stablecoin.balance_of(stack.chain_url, stack.token, self.address)

    def fund(self, amount: int) -> None:
        """Mint *amount* base units to it; the contract takes no coin."""
        mint = "mint(address,uint256)"
        url, token = self.stack.chain_url, self.stack.token
        stablecoin.administer(url, token, mint, self.address, amount)

    def propose(self, *change: str) -> Any:
        """Return what ``hotwallet vault propose`` prints, as JSON."""
        command = ("vault", "propose", "--network", NETWORK, *change, "--json")
        return json.loads(self.stack.command(*command))

    def sign(self, *change: str) -> None:
        """Let the guardian sign the next step of a change, such as --add-operator."""
        step = self.propose(*change)
        call = {"from": step["signer"], "to": step["to"], "data": step["data"]}
        RPC(self.stack.chain_url).transact({**call, "gas": hex(500_000)})


def create_key(stack: Stack, key_id: str) -> tuple[str, str]:
    """Create another key in the stack's SoftHSM token; return its id and address."""
    environ = {**stack.environ, "PKCS11_KEY_ID": key_id}
    command = ("softhsm", "init", "--label", f"key-{key_id}", "--json")
    created = json.loads(hotwallet(environ, *command, program=stack.program))
    return created["key_id"], created["address"]


def deploy_vault(
    stack: Stack, operators: Sequence[str], *, caps: str = "1000/50000"
) -> StackVault:
    """Deploy a vault for the stack's token; it is empty and not configured."""
    rpc = RPC(stack.chain_url)
    guardian = to_checksum_address(rpc("eth_accounts")[2])
    command = ["vault", "deploy", "--network", NETWORK, "--guardian", guardian]
    for operator in operators:
        command += ["--operator", operator]
    data = stack.command(*command, "--caps", f"{SYMBOL}={caps}")
    return StackVault(stack, create(stack, data), guardian)


def create(stack: Stack, data: str) -> str:
    """Send *data* without a recipient; return the address of the new contract."""
    sender = stablecoin.issuer(stack.chain_url)
    created = {"from": sender, "data": data, "gas": hex(3_000_000)}
    receipt = RPC(stack.chain_url).transact(created)
    return to_checksum_address(receipt["contractAddress"])


def configure(stack: Stack, vault: str) -> None:
    """Write the vault into the networks file, which processes read at their start."""
    path = stack.home / "networks.toml"
    head, tokens = path.read_text(encoding="utf-8").split("\n\n", 1)
    path.write_text(f'{head}\nvault = "{vault}"\n\n{tokens}', encoding="utf-8")
