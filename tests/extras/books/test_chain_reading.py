"""What the books read of the chain: periods, nonces, balances, reorganisations."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from api.extras.books.accounts import Account, Openings
from api.extras.books.comparison import Comparison, NetworkBooks, Progress
from api.extras.books.entries import Assets, Period, find_blocks
from signer.config.networks import Network
from signer.errors import ChainUnavailableError, InvalidInputError
from signer.model.refund import COIN_ADDRESS
from signer.ports.chain import TokenTransfer
from tests.extras.books.paid_books import (
    BLOCK_SECONDS,
    CUSTOMER,
    NETWORK,
    OTHER_TOKEN,
    START,
    STRANGER,
    TOKEN,
    WALLET,
    Books,
    PaperChain,
)


def _period(first: float, last: float) -> Period:
    start, end = (START + timedelta(seconds=BLOCK_SECONDS * n) for n in (first, last))
    return Period(start, end)


@pytest.mark.parametrize(
    ("first", "last", "numbers"),
    [(10, 20, (10, 19)), (50, 500, (50, 98)), (-50, 10, (1, 9))],
    ids=["its end is not included", "later blocks may be removed", "genesis"],
)
def test_a_period_has_the_blocks_of_its_time(
    first: int, last: int, numbers: tuple[int, int]
) -> None:
    """Those that are final, without the genesis block."""
    chain = PaperChain()
    chain.mine(99)

    blocks = find_blocks(chain, _period(first, last), NETWORK)

    assert blocks.numbers == numbers
    assert blocks.count == numbers[1] - numbers[0] + 1


@pytest.mark.parametrize(("first", "last"), [(500, 600), (99, 100), (-9, 1)])
def test_a_period_without_final_blocks_is_refused(first: int, last: int) -> None:
    chain = PaperChain()
    chain.mine(99)

    with pytest.raises(InvalidInputError, match="final block"):
        find_blocks(chain, _period(first, last), NETWORK)


@pytest.mark.parametrize("last", [9, 10])
def test_an_empty_period_is_refused(last: int) -> None:
    with pytest.raises(InvalidInputError, match="later than"):
        _period(10, last)


@pytest.mark.parametrize("known", [0, 4])
def test_nonces_are_found_without_old_states(books: Books, known: int) -> None:
    """The ledger's transactions show in which blocks nonces were used."""
    books.top_up(amount=10**9)
    for _ in range(10):
        books.chain.mine(5)
        books.paid()
    wallet = books.wallets[WALLET]
    books.wallets[WALLET] = replace(wallet, first_nonce=known)
    for nonce in range(known):
        del books.entries[WALLET][nonce]
    first = books.chain.counts[WALLET][5]
    last = books.chain.counts[WALLET][7]
    books.chain.pruned = books.chain.head + 3

    result = books.result(first, last)

    assert result.refunds == 3
    assert len(result.notes) == 1
    assert "balances" in result.notes[0]
    assert "OUSD, TUSD, coin" in result.notes[0]


def test_a_wallet_without_a_row_starts_at_nonce_zero(books: Books) -> None:
    """An unknown transaction is found in a state that the nodes still have."""
    books.top_up(amount=10**9)
    books.chain.mine(10)
    books.chain.send(WALLET)
    used_at = books.chain.head
    del books.wallets[WALLET]
    books.chain.pruned = used_at
    books.chain.mine(10)

    assert books.codes(used_at, used_at) == ["unknown-transaction"]
    assert books.codes(used_at + 1, used_at + 5) == []


def test_unknown_nonces_need_old_states(books: Books) -> None:
    """Without an archive node it is not known when an unknown nonce was used."""
    books.top_up(amount=10**9)
    books.paid()
    books.chain.mine()
    books.chain.send(WALLET)
    books.chain.mine(50)
    books.chain.pruned = books.chain.head

    with pytest.raises(ChainUnavailableError, match="archive"):
        books.codes(1, 20)


def test_an_unknown_transaction_that_is_not_found(books: Books) -> None:
    """It is a difference, and the received coin is not known."""
    books.top_up(COIN_ADDRESS, 10**18)
    books.chain.mine()
    books.chain.send(WALLET)
    books.chain.settled_by_hash.clear()

    *found, result = books.events()

    assert [str(each.code) for each in found if hasattr(each, "code")] == [
        "unknown-transaction"
    ]
    assert isinstance(result, NetworkBooks)
    (coin,) = result.accounts
    assert coin.received is None
    assert result.notes[0].startswith("1 transactions of unknown nonces")


def test_many_unknown_transactions_are_not_searched_for(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each search costs many requests; all are reported."""
    monkeypatch.setattr("api.extras.books.comparison._MOST_SEARCHES", 1)
    for _ in range(3):
        books.chain.mine()
        books.chain.send(WALLET)

    assert books.codes() == ["unknown-transaction"] * 3
    assert books.result().notes[0].startswith("2 transactions")


def test_the_balances_of_the_report_before_are_the_opening_ones(books: Books) -> None:
    """Nodes that prune states have the closing state only."""
    books.top_up(amount=100)
    books.top_up(COIN_ADDRESS, 10**18)
    before = books.chain.head
    books.paid(amount=10)
    last = books.chain.head
    books.chain.pruned = last
    opening = {(WALLET, TOKEN): 100, (WALLET, COIN_ADDRESS): 10**18}

    *_, result = books.events(before + 1, last, openings=Openings(before, opening))
    *_, other = books.events(before + 1, last, openings=Openings(before - 1, opening))

    assert isinstance(result, NetworkBooks)
    assert isinstance(other, NetworkBooks)
    assert not result.notes
    assert [each.opening for each in result.accounts] == [100, 10**18]
    assert all(each.is_checked for each in result.accounts)
    assert len(other.notes) == 1


def _a_day_later(books: Books) -> tuple[int, int, Openings]:
    """Pay before, in and after a range; prune all states but the newest."""
    books.top_up(amount=100)
    before = books.chain.head
    books.paid(amount=10)
    last = books.chain.head
    books.chain.mine(2500)
    books.top_up(amount=7)
    books.paid(amount=20)
    books.chain.pruned = books.chain.head
    return before + 1, last, Openings(before, {(WALLET, TOKEN): 100})


def test_closing_balances_are_computed_from_later_transfers(books: Books) -> None:
    """The nodes have the newest state, and every transfer since the range."""
    first, last, openings = _a_day_later(books)

    *found, result = books.events(first, last, openings=openings)

    assert not [each for each in found if hasattr(each, "code")]
    assert isinstance(result, NetworkBooks)
    (tokens,) = [each for each in result.accounts if each.asset == TOKEN]
    assert (tokens.opening, tokens.closing) == (100, 90)
    assert "block: coin." in result.notes[0]


def test_a_computed_closing_balance_shows_a_difference(books: Books) -> None:
    """Tokens that vanished without an event are missing later as well."""
    first, last, openings = _a_day_later(books)
    books.chain.change(WALLET, TOKEN, -1)

    assert books.codes(first, last, openings=openings) == ["balance-mismatch"]


def test_a_false_opening_balance_is_a_difference(books: Books) -> None:
    books.top_up(amount=100)
    before = books.chain.head
    books.paid(amount=10)
    books.chain.pruned = books.chain.head
    openings = Openings(before, {(WALLET, TOKEN): 99})

    assert books.codes(before + 1, openings=openings) == ["balance-mismatch"]


def _move(books: Books) -> None:
    for tx_hash, settled in books.chain.settled_by_hash.items():
        block = books.chain.block(books.chain.head)
        books.chain.settled_by_hash[tx_hash] = replace(settled, block=block)


def _fork_transactions(books: Books) -> None:
    for tx_hash, settled in books.chain.settled_by_hash.items():
        block = replace(settled.block, hash="0xother")
        books.chain.settled_by_hash[tx_hash] = replace(settled, block=block)


def test_a_reorganisation_while_the_chain_is_read(books: Books) -> None:
    """The last block is not the one of the start: the command is repeated."""
    books.chain.mine(2500)
    books.paid()

    def read() -> None:
        for event in books.events():
            if isinstance(event, Progress):
                books.chain.fork += 1

    with pytest.raises(ChainUnavailableError, match="reorganised"):
        read()


@pytest.mark.parametrize("change", [_move, _fork_transactions])
def test_facts_of_two_forks_are_not_compared(
    books: Books, change: Callable[[Books], None]
) -> None:
    """A transaction is not in the block of its nonce, or of its transfer."""
    books.top_up(amount=10**9)
    books.paid()
    last = books.chain.head
    books.chain.mine(10)
    change(books)

    with pytest.raises(ChainUnavailableError, match="reorganised"):
        books.codes(1, last)


def test_a_transfer_without_its_transaction(books: Books) -> None:
    """Nodes that disagree about a transaction do not make it a difference."""
    books.chain.mine()
    books.chain.transfer(WALLET, STRANGER, 9, "0xlost")

    with pytest.raises(ChainUnavailableError, match="do not agree"):
        books.codes()


def test_a_transfer_of_a_nonce_that_is_not_used(books: Books) -> None:
    """Nodes cannot have a transaction of a nonce that they do not count."""
    books.chain.mine()
    books.chain.pay(WALLET, STRANGER, 9)
    books.chain.counts[WALLET].clear()

    with pytest.raises(ChainUnavailableError, match="contradict"):
        books.codes()


def test_without_wallets_nothing_is_read(books: Books) -> None:
    """A new ledger has no key."""
    books.chain.mine(50)
    books.wallets.clear()
    ledger, period = books.tables(), _period(1, 20)

    *_, result = Comparison(
        "local", NETWORK, books.chain, ledger, period, addresses=()
    ).run()

    assert isinstance(result, NetworkBooks)
    assert not result.accounts


def test_an_account_that_was_not_used_is_empty() -> None:
    assert Account(WALLET, TOKEN).is_empty
    assert not Account(WALLET, TOKEN, opening=1).is_empty
    assert not Account(WALLET, TOKEN, received=1).is_empty


_MANAGER = "0xfeEC000000000000000000000000000000000000"


@pytest.mark.parametrize(
    ("fees", "decimals", "token", "recipient", "is_fee"),
    [
        ("tempo", 6, TOKEN, _MANAGER, True),
        ("tempo", 18, TOKEN, _MANAGER, True),
        ("tempo", 6, OTHER_TOKEN, _MANAGER, False),
        ("tempo", 6, TOKEN, CUSTOMER, False),
        ("eip-1559", 6, TOKEN, _MANAGER, False),
    ],
)
def test_a_fee_is_of_the_token_that_pays_fees(
    fees: str, decimals: int, token: str, recipient: str, *, is_fee: bool
) -> None:
    """It goes to the fee manager; everything else that leaves the wallet is shown."""
    paid = {"address": TOKEN, "decimals": decimals, "max_amount": "1000"}
    network = Network.model_validate(
        {
            "chain_id": 1,
            "rpc_urls": ["http://127.0.0.1:9"],
            "coin_is": "TUSD",
            "fees": fees,
            "tokens": {"TUSD": paid},
        }
    )
    block = PaperChain().block(1)
    transfer = TokenTransfer(token, WALLET, recipient, 5, "0x1", block, 0)

    assert Assets(network, []).is_fee(transfer) is is_fee
