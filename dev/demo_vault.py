"""
``make demo-vault``: one signature pays a hundred, and a thief gets the rest of a day.

Prints each step as it happens, and exits with status 0 only if all steps succeeded.
"""

import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eth_typing import HexStr
from eth_utils.address import to_checksum_address

from dev import stablecoin
from dev.anvil import ROOT, obtain_anvil
from dev.demo import DemoError, Progress
from dev.rpc import RPC, RPCError
from dev.stack import NETWORK, SYMBOL, Stack, default_home, request, running_stack
from dev.vault import StackVault, configure, create_key, deploy_vault


if TYPE_CHECKING:
    from signer.account import HSMAccount


UNIT = 10**6
PER_ITEM, PER_DAY = 20 * UNIT, 2_000 * UNIT
REFUNDS, AFTERWARDS, AMOUNT = 100, 10, 12_500_000
FUNDS = 1_000_000 * UNIT
THIEF = "0x" + "7f" * 20

_PAYEES = 0x70 << 152

_CONFIRM_SECONDS = 60.0


def main() -> int:
    """Run the demo, in the folder that an argument names; return 0 if it succeeded."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell starts background jobs with SIGINT ignored.
        signal.signal(number, signal.default_int_handler)
    progress = Progress()
    if obtain_anvil(ROOT) is None:
        print("The contract needs anvil: run make node_modules/.ready", file=sys.stderr)
        return 1
    home = Path(sys.argv[1]) if sys.argv[1:] else default_home()
    made: list[tuple[StackVault, str, str]] = []
    try:
        with running_stack(
            home,
            settings={"WEB_CONCURRENCY": "1"},
            prepare=lambda stack: made.append(_prepare(progress, stack)),
            report=lambda text: progress.step(f"{text} ..."),
        ):
            ((vault, next_id, next_address),) = made
            pay_together(progress, vault)
            rotate(progress, vault, next_id, next_address)
            steal(progress, vault, next_id)
            revoke(progress, vault, next_id, next_address)
            progress.step("Stopping all processes ...")
    except KeyboardInterrupt:
        print("\nStopped all processes.", file=sys.stderr)
        return 130
    except (DemoError, RPCError, RuntimeError) as e:
        print(f"\nThe demo failed: {e}", file=sys.stderr)
        return 1
    progress.step("Done.")
    return 0


def _prepare(progress: Progress, stack: Stack) -> tuple[StackVault, str, str]:
    """Deploy and fund a vault for the wallet's key and a standby key."""
    progress.step("Deploying a vault, whose operators are two keys of the token ...")
    standby_id, standby = create_key(stack, "02")
    stack.command("db", "upgrade")
    caps = f"{PER_ITEM // UNIT}/{PER_DAY // UNIT}"
    vault = deploy_vault(stack, [stack.address, standby], caps=caps)
    vault.fund(FUNDS)
    stablecoin.fund(stack.chain_url, standby)
    configure(stack, vault.address)
    progress.detail("vault", vault.address)
    progress.detail("guardian", vault.guardian)
    progress.detail("caps", f"{caps} {SYMBOL} for an item and a day")
    progress.detail("it holds", _shown(vault.balance))
    return vault, standby_id, standby


def pay_together(progress: Progress, vault: StackVault) -> None:
    """
    Pay a hundred refunds of one request.

    Raises:
        DemoError: They were not paid by one transaction, or not exactly once.
    """
    progress.step(f"The gateway requests {REFUNDS} refunds of {_shown(AMOUNT)}.")
    before = vault.balance
    paid = _pay(vault.stack, REFUNDS)
    hashes = Counter(each["tx_hash"] for each in paid)
    for tx_hash, count in hashes.items():
        receipt = RPC(vault.stack.chain_url)("eth_getTransactionReceipt", tx_hash)
        gas = int(receipt["gasUsed"], 16)
        progress.detail("transaction", tx_hash)
        progress.detail("paid", f"{count} refunds, {gas // count:,} gas each")
    _expect(len(hashes) == 1, f"{len(hashes)} transactions paid them")
    _expect(before - vault.balance == REFUNDS * AMOUNT, "the vault paid another sum")
    progress.step(f"One signature has paid {REFUNDS} refunds.")


def _pay(stack: Stack, count: int) -> Sequence[Any]:
    """Request *count* refunds, each to another payee; return them when confirmed."""
    token = stack.command("token", "--role", "merchant", "--subject", "gateway")
    headers = {"Authorization": f"Bearer {token}"}
    start = time.monotonic_ns()
    refunds = [
        {
            "idempotency_key": f"{start}-{number:x}",
            "payment_session_id": f"ps_{start}_{number:x}",
            "network": NETWORK,
            "token": SYMBOL,
            "recipient": to_checksum_address(f"0x{number:040x}"),
            "amount": f"{AMOUNT / UNIT}",
        }
        for number in range(_PAYEES, _PAYEES + count)
    ]
    url = f"{stack.url}/v1/refunds"
    _, _, answer = request(
        "POST", f"{url}/batch", headers=headers, body={"refunds": refunds}
    )
    _expect("results" in answer, f"the batch was refused: {answer}")
    refused = [each for each in answer["results"] if "refund" not in each]
    _expect(not refused, f"refunds were refused: {refused[:1]}")
    ids = [each["refund"]["id"] for each in answer["results"]]
    deadline = time.monotonic() + _CONFIRM_SECONDS
    while True:
        found = [request("GET", f"{url}/{ids[0]}", headers=headers)[2]]
        if found[0]["status"] == "confirmed":
            found = [
                request("GET", f"{url}/{each}", headers=headers)[2] for each in ids
            ]
        if all(each["status"] == "confirmed" for each in found) and len(found) == count:
            return found
        _expect(time.monotonic() < deadline, f"still {found[0]['status']}: {found[0]}")
        time.sleep(0.3)


def steal(progress: Progress, vault: StackVault, key_id: str) -> None:
    """
    Sign whatever a thief of the key wants.

    Raises:
        DemoError: He got more than what was left of the day.
    """
    progress.step("A thief takes over the host. He signs any bytes with the key.")
    stack = vault.stack
    left = PER_DAY - (REFUNDS + AFTERWARDS) * AMOUNT
    progress.detail("left today", _shown(left))
    account = _stolen_account(stack, key_id)
    for what, to, data in _strategies(vault, account):
        before = _loot(stack)
        status = _send(stack, account, to, data)
        got = _loot(stack) - before
        progress.detail(what, "reverts" if status == 0 else f"moves {_shown(got)}")
    progress.detail("the thief has", _shown(_loot(stack)))
    progress.detail("vault holds", _shown(vault.balance))
    _expect(_loot(stack) <= left, "the thief got more than the cap of the day")
    progress.step("The chain has enforced the caps; the rest is safe.")


def _strategies(
    vault: StackVault, account: "HSMAccount"
) -> Iterator[tuple[str, str, bytes]]:
    from signer.chain.vault import Item, encode_pay  # noqa: PLC0415  It imports slowly.

    def pay(*amounts: int) -> bytes:
        items = [Item(THIEF, amount, bytes(16)) for amount in amounts]
        return encode_pay(vault.stack.token, items)

    call, token, address = stablecoin.calldata, vault.stack.token, vault.address
    raised = "setCaps(address,uint96,uint96)"
    yield "all at once", address, pay(FUNDS)
    yield "100 x the cap", address, pay(*[PER_ITEM] * REFUNDS)
    yield "once more", address, pay(*[PER_ITEM] * REFUNDS)
    yield "withdraw", address, call("withdraw(address,uint256)", token, FUNDS)
    yield "raise the cap", address, call(raised, token, FUNDS, FUNDS)
    yield "add operator", address, call("addOperator(address)", THIEF)
    yield "take over", address, call("setGuardian(address)", account.address)
    taken = call("transferFrom(address,address,uint256)", address, THIEF, FUNDS)
    yield "transferFrom", token, taken


def _stolen_account(stack: Stack, key_id: str) -> "HSMAccount":
    """Open a key of the wallet with a policy of the thief's, and without a log."""
    import structlog  # noqa: PLC0415

    from signer.policy.default_rules import account_policy  # noqa: PLC0415
    from softhsm.account import open_account  # noqa: PLC0415

    anything = '@id("thief") permit (principal, action, resource);'
    os.environ |= {name: stack.environ[name] for name in ("HOTWALLET_HOME", "APP_ENV")}
    os.environ["PKCS11_KEY_ID"] = key_id
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=silent)
    return open_account(policy=account_policy(anything))


def _send(stack: Stack, account: "HSMAccount", to: str, data: bytes) -> int:
    """Send a call, and return its status."""
    rpc = RPC(stack.chain_url)
    signed = account.sign_transaction(
        {
            "to": HexStr(to),
            "data": HexStr("0x" + data.hex()),
            "gas": 16_000_000,
            "maxFeePerGas": 10**10,
            "maxPriorityFeePerGas": 10**9,
            "nonce": int(rpc("eth_getTransactionCount", account.address, "latest"), 16),
            "chainId": int(rpc("eth_chainId"), 16),
            "type": 2,
        }
    )
    raw = "0x" + bytes(signed.raw_transaction).hex()
    tx_hash = rpc("eth_sendRawTransaction", raw)
    rpc("evm_mine")
    receipt = _await(lambda: rpc("eth_getTransactionReceipt", tx_hash))
    return int(receipt["status"], 16)


def _loot(stack: Stack) -> int:
    return stablecoin.balance_of(stack.chain_url, stack.token, THIEF)


def rotate(progress: Progress, vault: StackVault, key_id: str, address: str) -> None:
    """
    Activate the standby key, and pay with it.

    Raises:
        DemoError: Tokens were moved, or the next refunds were not paid by the new key.
    """
    stack, before = vault.stack, vault.balance
    progress.step("An administrator rotates to the standby key.")
    command = ("keys", "rotate", key_id, "--from", stack.address, "--yes")
    progress.detail("command", stack.command(*command).partition("\n")[0])
    _expect(vault.balance == before, "the rotation moved tokens")
    progress.detail("tokens moved", _shown(0))
    paid = _pay(stack, AFTERWARDS)
    _expect({each["sender"] for each in paid} == {address}, "the old key paid")
    _expect(before - vault.balance == AFTERWARDS * AMOUNT, "the vault paid another sum")
    progress.step(f"The new key has paid {AFTERWARDS} refunds from the same vault.")


def revoke(progress: Progress, vault: StackVault, key_id: str, address: str) -> None:
    """
    Remove the stolen key with *address*, and activate the first key again.

    Raises:
        DemoError: The stolen key may still pay.
    """
    stack = vault.stack
    progress.step("The guardian removes the stolen key, which needs no delay.")
    vault.sign("--remove-operator", address)
    account = _stolen_account(stack, key_id)
    _, to, data = next(_strategies(vault, account))
    status = _send(stack, account, to, data)
    progress.detail("the thief", "reverts" if status == 0 else "may still pay")
    _expect(status == 0, "the removed key may still pay")
    progress.step("An administrator revokes it, and goes back to the first key.")
    command = ("keys", "rotate", stack.key_id, "--compromised", "--from", address)
    progress.detail("command", stack.command(*command, "--yes").partition("\n")[0])


def _await(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + _CONFIRM_SECONDS
    while not (found := look()):
        _expect(time.monotonic() < deadline, "a transaction was not mined")
        time.sleep(0.05)
    return found


def _shown(units: int) -> str:
    return f"{units / UNIT:,.2f} {SYMBOL}"


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise DemoError(problem)


if __name__ == "__main__":
    sys.exit(main())
