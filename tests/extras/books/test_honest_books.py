"""Honest books have no difference, and their sums are exact."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from api.extras.books.comparison import NetworkBooks
from signer.chain.vault import Reason
from signer.model.refund import COIN_ADDRESS
from tests.extras.books.paid_books import FEE, OTHER_TOKEN, SECOND, TOKEN, WALLET, Books
from tests.fixtures.ledger import examples


STEPS: dict[str, Callable[[Books], object]] = {
    "refund": Books.paid,
    "reverted": Books.reverted,
    "cancelled": Books.cancelled,
    "filler": Books.filler,
    "batch": lambda books: books.batch(None, None, None),
    "batch with all ends": lambda books: books.batch(None, *Reason, None),
    "batch that paid none": lambda books: books.batch(Reason.ABOVE_DAY_CAP),
    "sweep": Books.swept,
    "coin sweep": Books.swept_coin,
    "call": Books.called,
    "call without coin": lambda books: books.called(0),
    "call that moves tokens": lambda books: books.called(moved=9),
    "foreign": Books.foreign,
    "top-up": Books.top_up,
    "coin": lambda books: books.top_up(COIN_ADDRESS, 10**18),
    "other token": lambda books: books.top_up(OTHER_TOKEN, 77),
    "empty blocks": lambda books: books.chain.mine(300),
    "other wallet": lambda books: books.paid(SECOND),
}


@settings(examples, max_examples=60)
@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=25), st.data())
def test_honest_books_have_no_difference(
    books: Books, steps: list[str], data: st.DataObject
) -> None:
    """All kinds of payments, in any order, and any part of the chain."""
    books = Books(books.store)
    books.chain.mine()
    for step in steps:
        STEPS[step](books)
    first = data.draw(st.integers(1, books.chain.head))
    last = data.draw(st.integers(first, books.chain.head))

    *events, result = books.events(first, last)

    assert not [each for each in events if hasattr(each, "code")]
    assert isinstance(result, NetworkBooks)
    for account in result.accounts:
        assert account.received is not None
        assert account.opening is not None
        assert account.opening + account.received - account.spent == account.closing
    assert not result.notes


def test_the_sums_of_a_wallet(books: Books) -> None:
    """Each payment is in its own sum, and received coin is computed."""
    books.top_up(amount=100)
    books.top_up(COIN_ADDRESS, 10**18)
    books.paid(amount=10)
    books.reverted()
    books.cancelled()
    books.swept(5)
    books.swept_coin(7)
    books.foreign()

    result = books.result()

    of = {(each.wallet, each.asset): each for each in result.accounts}
    tokens, coin = of[WALLET, TOKEN], of[WALLET, COIN_ADDRESS]
    assert (tokens.refunds, tokens.sweeps, tokens.other) == (10, 5, 3)
    assert (tokens.opening, tokens.received, tokens.closing) == (0, 100, 82)
    assert (coin.sweeps, coin.fees, coin.received) == (7, 6 * FEE, 10**18)
    assert of[SECOND, TOKEN].received == 5
    assert of[SECOND, COIN_ADDRESS].received == 7
    assert (result.refunds, result.sweeps, result.others) == (3, 2, 1)


def test_only_the_period_counts(books: Books) -> None:
    """Refunds before and after it are in the balances only."""
    books.top_up(amount=100)
    books.paid(amount=1)
    first = books.chain.head + 1
    books.paid(amount=10)
    last = books.chain.head
    books.paid(amount=20)

    result = books.result(first, last)

    (tokens,) = [each for each in result.accounts if each.asset == TOKEN]
    assert (tokens.opening, tokens.refunds, tokens.closing) == (99, 10, 89)
    assert result.refunds == 1


def test_blocks_are_read_in_windows(books: Books) -> None:
    """No window is larger than 2,000 blocks, and together they are the range."""
    books.top_up(amount=10)
    books.chain.mine(4500)
    books.paid(amount=10)

    assert books.codes() == []
    assert books.chain.windows == [(1, 2000), (2001, 4000), (4001, 4503)]


def test_many_pages_of_honest_refunds_have_no_difference(books: Books) -> None:
    books.top_up(amount=10**15)
    books.top_up(COIN_ADDRESS, 10**20)
    for number in range(1_100):
        if number % 100 == 0:
            books.reverted()
        elif number % 100 == 1:
            books.cancelled()
        else:
            books.paid()

    *events, result = books.events()

    assert not [each for each in events if hasattr(each, "code")]
    assert isinstance(result, NetworkBooks)
    assert result.refunds == 1_100


def test_one_wrong_refund_among_many_is_found(books: Books) -> None:
    books.top_up(amount=10**15)
    entries = [books.paid() for _ in range(300)]
    for planted in (0, 155, 299):
        entry = entries[planted]
        books.change(entry, amount=999)

        assert books.codes() == ["wrong-amount"]
        books.put(WALLET, entry)
