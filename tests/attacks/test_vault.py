"""A thief of the wallet's keys, or of the workers' database role, and a vault."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.signers.local import LocalAccount

from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.alerts import Alert
from signer.chain.vault import MAX_AMOUNT, PAY, Item, encode_pay
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import Transaction
from tests.attacks.theft import QUEUED_AGAIN, REFUSED, Thief, let_work
from tests.fixtures.batches import VAULT
from tests.fixtures.chain import DevChain
from tests.fixtures.roles import Processes
from tests.fixtures.scripted_chain import TOKEN
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.payments import signed
from tests.support.refunds import AMOUNT, World
from tests.support.vault import DELAY, LocalVault, deploy_vault, gas_bound
from tests.support.waiting import eventually


PER_ITEM, PER_DAY = 1_000 * 10**6, 5_000 * 10**6

FUNDS = 1_000_000 * 10**6

DAY = 86_400

THIEF = "0x" + "7f" * 20

# Calls the address in the first word five times, with the bytes after it.
_FIVE_CALLS = (
    "60203603"  # The size of these bytes,
    "806020600037"  # which are copied to memory.
    + 5 * "6000600082600060006000355af150"  # call(gas, word 0, 0, 0, size, 0, 0)
    + "00"
)


@dataclass
class Heist:
    """What the thief has: the vault, two keys that may pay, and some coin."""

    vault: LocalVault
    keys: tuple[LocalAccount, LocalAccount]

    def send(
        self, data: bytes, *, key: int = 0, to: str | None = None, gas: int = 2_500_000
    ) -> str:
        """Broadcast a call of the vault, or of *to*; return the transaction's hash."""
        account = self.keys[key]
        raw = signed(
            account,
            nonce=self.next_nonce(account.address),
            to=to or self.vault.address,
            data=data,
            gas=gas,
        )
        tx_hash = str(self.vault.rpc("eth_sendRawTransaction", "0x" + raw.hex()))
        if self.vault.rpc("anvil_getAutomine"):
            self.receipt(tx_hash)
        return tx_hash

    def next_nonce(self, address: str) -> int:
        return int(self.vault.rpc("eth_getTransactionCount", address, "pending"), 16)

    def pay(self, *amounts: int, key: int = 0, gas: int | None = None) -> str:
        """Broadcast a payment of *amounts* to the thief."""
        data = encode_pay(self.vault.token, _loot(amounts))
        return self.send(data, key=key, gas=gas or gas_bound(len(amounts)))

    def succeeded(self, tx_hash: str) -> bool:
        return bool(self.receipt(tx_hash)["status"] == "0x1")

    def receipt(self, tx_hash: str) -> dict[str, Any]:
        """Wait for a receipt: anvil mines at once, but not before it answers."""
        receipt = eventually(
            lambda: self.vault.rpc("eth_getTransactionReceipt", tx_hash)
        )
        assert receipt, "not mined"
        return cast("dict[str, Any]", receipt)

    def wait(self, seconds: int) -> None:
        self.vault.rpc("evm_increaseTime", seconds)
        self.vault.rpc("evm_mine")

    def taken(self) -> int:
        return coin.balance_of(self.vault.url, self.vault.token, THIEF)


def _loot(amounts: Iterable[int]) -> list[Item]:
    return [Item(THIEF, each, bytes(16)) for each in amounts]


@pytest.fixture
def heist(fresh_anvil: DevChain) -> Heist:
    """A vault early in a day, with far more than the cap."""
    rpc, url = fresh_anvil.rpc, fresh_anvil.url
    latest = int(rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
    rpc("evm_setNextBlockTimestamp", (latest // DAY + 2) * DAY + 60)
    keys = Account.create(), Account.create()
    for key in keys:
        coin.fund(url, key.address)
    token = coin.deploy(url, "FiatUSD")
    vault = deploy_vault(
        url,
        token,
        caps=(PER_ITEM, PER_DAY),
        funds=FUNDS,
        operators=[key.address for key in keys],
    )
    return Heist(vault, keys)


def _takes_all_at_once(heist: Heist) -> int:
    for amount in (FUNDS, PER_DAY, PER_ITEM + 1, MAX_AMOUNT):
        heist.pay(amount, amount)
    return 0


def _takes_item_after_item(heist: Heist) -> int:
    for _ in range(4):
        heist.pay(PER_ITEM, PER_ITEM - 1, 1, PER_ITEM)
    return PER_DAY


def _pays_many_times_in_one_block(heist: Heist) -> int:
    heist.vault.rpc("evm_setAutomine", False)
    hashes = [heist.pay(*[PER_ITEM] * 3, key=n % 2) for n in range(10)]
    heist.vault.rpc("evm_mine")
    assert all(map(heist.succeeded, hashes))
    heist.vault.rpc("evm_setAutomine", True)
    return PER_DAY


def _pays_many_times_in_one_transaction(heist: Heist) -> int:
    """As a delegated account (EIP-7702): its code calls the vault five times."""
    account = heist.keys[0]
    deployed = heist.vault.rpc.transact(
        {
            "from": coin.issuer(heist.vault.url),
            # Returns the bytes after these eleven as code.
            "data": f"0x60{len(_FIVE_CALLS) // 2:02x}80600b6000396000f3{_FIVE_CALLS}",
        }
    )["contractAddress"]
    nonce = heist.next_nonce(account.address)
    authorization = account.sign_authorization(
        # The transaction has used its nonce when the chain reads this.
        {"chainId": CHAIN_ID, "address": deployed, "nonce": nonce + 1}
    )
    data = bytes(12) + bytes.fromhex(heist.vault.address[2:])
    data += encode_pay(heist.vault.token, _loot([PER_ITEM] * 3))
    raw = signed(
        account,
        type=4,
        nonce=nonce,
        to=account.address,
        data=data,
        gas=5 * gas_bound(3),
        authorizationList=[authorization],
    )
    tx_hash = heist.vault.rpc("eth_sendRawTransaction", "0x" + raw.hex())
    receipt = heist.receipt(tx_hash)
    assert receipt["status"] == "0x1"
    assert len(receipt["logs"]) == 5 + 5 * 3  # Five Transfers, and each item's end.
    return PER_DAY


def _changes_the_rules(heist: Heist) -> int:
    raised = ("setCaps(address,uint96,uint96)", heist.vault.token, FUNDS, FUNDS)
    lowered = ("setCaps(address,uint96,uint96)", heist.vault.token, 0, 0)
    calls = [
        coin.calldata(*raised),
        coin.calldata(*lowered),
        coin.calldata("addOperator(address)", THIEF),
        coin.calldata("setGuardian(address)", heist.keys[0].address),
        coin.calldata("propose(bytes)", coin.calldata(*raised)),
        coin.calldata("cancel(bytes)", coin.calldata(*raised)),
        coin.calldata("withdraw(address,uint256)", heist.vault.token, FUNDS),
        coin.calldata("removeOperator(address)", heist.keys[1].address),
        bytes(4),
        b"",
    ]
    assert not any(heist.succeeded(heist.send(each)) for each in calls)
    return 0


def _makes_a_call_that_the_guardian_proposed(heist: Heist) -> int:
    vault = heist.vault
    raised = coin.calldata("setCaps(address,uint96,uint96)", vault.token, FUNDS, FUNDS)
    successor = coin.calldata("setGuardian(address)", vault.guardian)
    for change in (raised, successor):
        vault.call(vault.guardian, "propose(bytes)", change)
    heist.wait(DELAY)
    own = coin.calldata("setGuardian(address)", heist.keys[0].address)
    for change in (raised, successor, own):
        assert not heist.succeeded(heist.send(change))
    vault.call(vault.guardian, "cancel(bytes)", raised)
    heist.pay(*[PER_ITEM] * 9)
    return PER_DAY


def _is_faster_than_the_guardian(heist: Heist) -> int:
    """He takes the day before a lower cap is mined, and then tries again."""
    vault = heist.vault
    vault.rpc("evm_setAutomine", False)
    first = heist.pay(*[PER_ITEM] * 9)
    lowered = coin.calldata("setCaps(address,uint96,uint96)", vault.token, PER_ITEM, 1)
    call = {"from": vault.guardian, "to": vault.address, "data": "0x" + lowered.hex()}
    second = vault.rpc("eth_sendTransaction", {**call, "gas": hex(200_000)})
    vault.rpc("evm_mine")
    vault.rpc("evm_setAutomine", True)
    assert heist.succeeded(first)
    assert heist.succeeded(second)
    heist.pay(1, 1, key=1)
    return PER_DAY


def _starves_the_call_of_gas(heist: Heist) -> int:
    """If tokens moved, the day must have counted them."""
    for gas in range(60_000, 460_000, 20_000):
        heist.pay(*[PER_ITEM // 10] * 3, gas=gas)
    (spent, _) = heist.vault.read(
        ["uint96", "uint64"], "spending(address)", heist.vault.token
    )
    assert 0 < heist.taken() == spent < PER_DAY
    heist.pay(*[PER_ITEM] * 9)
    return heist.taken()


def _forges_the_bytes_of_a_call(heist: Heist) -> int:
    """Aliased offsets, half an item, a length beyond the end, and bytes after it."""
    token = heist.vault.token
    whole = encode_pay(token, _loot([PER_ITEM] * 3))
    word = encode(["address"], [token])
    forgeries = [
        PAY + word + encode(["uint256"], [0]) + whole[68:],
        PAY + word + encode(["uint256"], [2**256 - 32]) + whole[68:],
        PAY + word + encode(["uint256", "uint256"], [64, 2**256 - 16]) + whole[100:],
        PAY + word + encode(["uint256", "uint256"], [64, 48 * 90]) + whole[100:],
        PAY + encode(["address", "bytes"], [token, bytes(47)]),
        PAY + b"\1" + whole[5:],
    ]
    assert not any(heist.succeeded(heist.send(each)) for each in forgeries)
    # The sum of these amounts is 1 in 96 bits.
    heist.pay(MAX_AMOUNT, 2)
    heist.send(whole + whole, gas=gas_bound(3))
    return 3 * PER_ITEM + 2


def _takes_what_has_no_cap(heist: Heist) -> int:
    """Another token of the vault, and addresses that are no token."""
    vault = heist.vault
    other = coin.deploy(vault.url)
    coin.administer(vault.url, other, "mint(address,uint256)", vault.address, FUNDS)
    for token in (other, vault.address, heist.keys[0].address, "0x" + "00" * 19 + "04"):
        heist.send(encode_pay(token, _loot([1, 10**6])))
    for call in (
        coin.calldata("transferFrom(address,address,uint256)", vault.address, THIEF, 1),
        coin.calldata("transfer(address,uint256)", THIEF, 1),
    ):
        assert not heist.succeeded(heist.send(call, to=vault.token))
    assert coin.balance_of(vault.url, other, vault.address) == FUNDS
    return 0


def _resigns_and_comes_back(heist: Heist) -> int:
    """What he gains by removing himself: the standby of the owner pays on."""
    own = heist.keys[0].address
    heist.pay(PER_ITEM)
    assert heist.succeeded(heist.send(coin.calldata("removeOperator(address)", own)))
    assert not heist.succeeded(heist.send(coin.calldata("addOperator(address)", own)))
    assert not heist.succeeded(heist.pay(PER_ITEM))
    assert heist.succeeded(heist.send(encode_pay(heist.vault.token, ()), key=1))
    return PER_ITEM


_STRATEGIES = [
    _takes_all_at_once,
    _takes_item_after_item,
    _pays_many_times_in_one_block,
    _pays_many_times_in_one_transaction,
    _changes_the_rules,
    _makes_a_call_that_the_guardian_proposed,
    _is_faster_than_the_guardian,
    _starves_the_call_of_gas,
    _forges_the_bytes_of_a_call,
    _takes_what_has_no_cap,
    _resigns_and_comes_back,
]


@pytest.mark.parametrize("strategy", _STRATEGIES)
def test_a_day_moves_at_most_its_cap(
    heist: Heist, strategy: Callable[[Heist], int]
) -> None:
    """He gets what the strategy returns, and the rules are the guardian's still."""
    vault = heist.vault
    expected = strategy(heist)

    assert heist.taken() == expected <= PER_DAY
    assert vault.balance() == FUNDS - expected
    assert vault.read(["address"], "guardian()") == (vault.guardian.lower(),)
    assert vault.read(["bool"], "isOperator(address)", THIEF) == (False,)
    per_item, per_day = vault.read(["uint96"] * 2, "caps(address)", vault.token)
    assert per_item <= PER_ITEM
    assert per_day <= PER_DAY


def test_a_day_is_a_cap_until_the_key_is_removed(heist: Heist) -> None:
    """Minutes around midnight move two caps, and a removed key moves nothing."""
    heist.wait(DAY - 300)
    heist.pay(*[PER_ITEM] * 9)
    assert heist.taken() == PER_DAY
    heist.wait(600)
    heist.pay(*[PER_ITEM] * 9, key=1)
    assert heist.taken() == 2 * PER_DAY
    for key in heist.keys:
        heist.vault.call(heist.vault.guardian, "removeOperator(address)", key.address)
    heist.wait(DAY)

    assert not heist.succeeded(heist.pay(1))
    assert not heist.succeeded(heist.pay(1, key=1))
    assert heist.taken() == 2 * PER_DAY


# A thief of the workers' database role, on a network with a vault.

STEPS = {Status.RESERVED: 1, Status.SIGNED: 2, Status.BROADCAST: 3}

CODE = "row-not-authentic"

# A version that has a row of history would refuse the next one.
_AGAIN = f"{QUEUED_AGAIN}, version = version + 9"

_BLOCK = "block_number = 1, block_hash = 'thief', tx_hash = coalesce(tx_hash, 'thief')"


@pytest.fixture
def role() -> str:
    return "worker"


@pytest.fixture
def world(processes: Processes) -> World:
    """Return a worker whose network has a vault, with what accepts refunds."""
    world = processes.worker
    world.network = world.network.model_copy(update={"vault": VAULT, "max_batch": 9})
    vault = ScriptedVault(VAULT, TOKEN, {world.signer.address})
    world.chain.vaults[VAULT] = vault
    processes.refunds.network = world.network
    return world


def _batch(world: World, processes: Processes, status: Status) -> list[Refund]:
    """Return two refunds of one batch that has *status*."""
    refunds = [processes.refunds.accepted() for _ in range(2)]
    moving, *_ = world.lifecycle.step_all(refunds)
    for _ in range(STEPS[status] - 1):
        assert isinstance(moving, Transaction)
        (moving,) = world.lifecycle.step_all([moving])
    found = [world.stored(each) for each in refunds]
    assert {(each.status, each.nonce) for each in found} == {(status, 0)}
    return found


def _end(status: str) -> str:
    return f"UPDATE transactions SET status = '{status}', {_BLOCK}"


def _code(world: World, refund: Refund) -> str | None:
    return world.stored(refund).moving.blocked_by


@pytest.mark.parametrize("end", ["confirmed", "failed"])
@pytest.mark.parametrize("is_mined", [False, True], ids=["in the pool", "mined"])
@pytest.mark.parametrize("status", STEPS)
def test_payments_that_are_queued_again(
    world: World,
    processes: Processes,
    thief: Thief,
    status: Status,
    is_mined: bool,
    end: str,
) -> None:
    """Triggers permit it, as after a real end.  The chain pays each once at most."""
    refunds = _batch(world, processes, status)
    if is_mined:
        world.mine_deep()

    assert thief.steal(_end(end), _AGAIN) is None
    let_work(world, world.worker)

    payouts = [amount for _, amount in world.chain.payouts()]
    assert payouts == ([AMOUNT, AMOUNT] if status is Status.BROADCAST else [])
    found = [world.stored(each) for each in refunds]
    assert {(each.state, each.nonce) for each in found} == {(PaymentState.QUEUED, None)}
    if status is Status.BROADCAST:
        assert {_code(world, each) for each in refunds} == {CODE}
        assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


def test_a_payment_whose_row_hides_that_it_was_queued_again(
    world: World, processes: Processes, thief: Thief
) -> None:
    """The reservation finds its membership."""
    refunds = _batch(world, processes, Status.BROADCAST)
    world.mine_deep()

    hides = "UPDATE refunds SET updated_at = created_at"
    assert thief.steal(_end("confirmed"), _AGAIN, hides) is None
    let_work(world, world.worker)

    assert len(world.chain.payouts()) == 2
    assert {_code(world, each) for each in refunds} == {CODE}


@pytest.mark.parametrize("hides", [False, True])
def test_a_membership_in_a_final_batch(
    world: World, processes: Processes, thief: Thief, *, hides: bool
) -> None:
    """The refund is paid once, as the chain shows that it was not; or it waits."""
    _batch(world, processes, Status.BROADCAST)
    let_work(world, world.worker)
    refund = processes.refunds.accepted(amount="7.00")
    change = "created_at" if hides else "created_at + interval '1 second'"

    stolen = thief.steal(
        "INSERT INTO transaction_payments SELECT"
        f" '{refund.id}', chain_id, sender, nonce, 2 FROM transactions",
        f"UPDATE refunds SET updated_at = {change} WHERE id = '{refund.id}'",
    )
    let_work(world, world.worker)

    assert stolen is None
    paid = [amount for _, amount in world.chain.payouts()]
    assert paid == [AMOUNT, AMOUNT, *([] if hides else [refund.amount])]
    if hides:
        assert _code(world, refund) == CODE


@pytest.mark.parametrize("state", ["confirmed", "queued"])
def test_the_end_of_an_open_batch(
    world: World, processes: Processes, thief: Thief, state: str
) -> None:
    """No payment has one before its transaction says so."""
    refunds = _batch(world, processes, Status.BROADCAST)
    place = ", nonce = NULL, sender = NULL, position = NULL"
    change = f"UPDATE refunds SET state = '{state}'{place if state == 'queued' else ''}"

    assert thief.steal(change) == REFUSED
    let_work(world, world.worker)

    assert world.statuses(refunds) == [Status.CONFIRMED] * 2
    assert len(world.chain.payouts()) == 2


def test_a_final_payment_of_a_batch_stays(
    world: World, processes: Processes, thief: Thief
) -> None:
    _batch(world, processes, Status.BROADCAST)
    let_work(world, world.worker)

    assert thief.steal(QUEUED_AGAIN) == REFUSED
