"""Workers share their looks at the head, and make the next one when it can matter."""

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from signer.model.network_view import Look
from signer.model.refund import Refund, Status
from signer.model.sealed_fields import changed
from signer.ports.chain import Block
from signer.ports.ledger import Ledger
from signer.refunds.head_looks import LONGEST_OWN_PAUSE, HeadLook, HeadLooks
from tests.fixtures.ledger import as_if
from tests.support.refunds import World, altered


BLOCK = 12.0


class Chainlike:
    """A chain with a block every ``BLOCK`` seconds, and the looks of workers at it."""

    def __init__(self, world: World, refund: Refund) -> None:
        self.world = world
        self.refund = refund
        self.born = world.clock()
        self.workers = [HeadLooks(world.store, world.clock) for _ in range(2)]
        self.seconds: list[int] = []

    @property
    def head(self) -> Block:
        """The newest block."""
        age = (self.world.clock() - self.born).total_seconds()
        number = 100 + int(age // BLOCK)
        return Block(number, f"0x{number:064x}")

    def look(self, worker: int = 0) -> HeadLook | None:
        """Return the look of a *worker*, which ends at once."""
        chain = self.world.chains["local"]
        looks = self.workers[worker]
        look = looks.begin(chain, [self.refund.reserved()])
        if look is not None:
            looks.end(look, self.head, is_settled=True)
        return look

    def pass_time(self, seconds: int, workers: int = 1) -> list[int]:
        """Let workers pass once a second; return the seconds at which one looked."""
        looked = []
        for second in range(1, seconds + 1):
            self.world.clock.advance(seconds=1)
            looks = [self.look(worker) for worker in range(workers)]
            looked += [second for look in looks if look is not None]
        return looked


@pytest.fixture
def chain(world: World) -> Chainlike:
    """A chain that one worker has learnt, with a refund that waits for a block."""
    refund = as_if(world.broadcast(), block_number=None)
    chain = Chainlike(world, refund)
    chain.pass_time(4 * int(BLOCK))
    return chain


def _mined(chain: Chainlike) -> Refund:
    number = chain.head.number
    chain.world.network = chain.world.network.model_copy(update={"confirmations": 64})
    chain.workers = [HeadLooks(chain.world.store, chain.world.clock) for _ in range(2)]
    chain.pass_time(4 * int(BLOCK), workers=2)
    return as_if(chain.refund, status=Status.MINED, block_number=number)


@pytest.mark.parametrize(("declared", "seconds"), [(None, 12), (BLOCK, 2)])
def test_a_declared_block_time_counts_before_it_is_measured(
    world: World, declared: float | None, seconds: int
) -> None:
    """Otherwise each pass looks until two blocks have come."""
    update = {"block_seconds": declared}
    world.network = world.network.model_copy(update=update)
    chain = Chainlike(world, as_if(world.broadcast(), block_number=None))

    looked = chain.pass_time(int(BLOCK))

    assert (len(looked), looked[-1]) == (seconds, 12)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_look_is_just_before_the_next_block(chain: Chainlike, workers: int) -> None:
    """About two looks for each block, however many workers there are."""
    chain.pass_time(4 * int(BLOCK), workers)
    looked = chain.pass_time(10 * int(BLOCK), workers)

    assert len(looked) <= 25
    gaps = [after - before for before, after in itertools.pairwise(looked)]
    assert max(gaps) <= BLOCK


def test_while_all_are_mined_a_look_is_when_one_can_be_final(chain: Chainlike) -> None:
    """There is none before, unless a block takes less time than it did."""
    chain.refund = _mined(chain)
    age = (chain.world.clock() - chain.born).total_seconds()
    looked = chain.pass_time(66 * int(BLOCK))

    deep_at = (chain.refund.block_number or 0) - 100 + 63  # Blocks after the birth.
    deep_at = deep_at * int(BLOCK) - int(age)
    (found, *_) = [each for each in looked if each >= deep_at]
    assert found - deep_at <= 2 * BLOCK
    assert len([each for each in looked if each <= found]) <= 2


def test_what_is_not_settled_is_looked_at_again_within_a_block(
    chain: Chainlike,
) -> None:
    chain.world.clock.advance(seconds=60)
    looks = chain.workers[0]
    look = looks.begin(chain.world.chains["local"], [chain.refund.reserved()])
    assert look is not None
    looks.end(look, chain.head, is_settled=False)

    looked = chain.pass_time(int(BLOCK))
    assert looked
    assert looked[0] <= BLOCK


def test_a_new_worker_and_a_clock_that_was_set_back_wait_for_nothing(
    chain: Chainlike,
) -> None:
    """A worker that has seen no block looks; so does one that sees the future."""
    assert chain.look(1) is not None
    assert chain.look() is None
    chain.world.clock.advance(seconds=-3600)
    assert chain.look() is not None


def test_what_was_sent_while_a_clock_was_ahead_delays_no_look(chain: Chainlike) -> None:
    """A database's clock may have been wrong for a moment, by an hour."""
    later = chain.world.clock() + timedelta(hours=1)
    sent = changed(chain.refund.reserved(), updated_at=later)
    chain.refund = chain.refund.inside(sent)

    assert len(chain.pass_time(4 * int(BLOCK))) >= 4


def test_looks_far_apart_measure_no_block(world: World) -> None:
    """A chain that mines on request is looked at in each pass."""
    chain = Chainlike(world, world.broadcast())
    for _ in range(5):
        assert chain.look() is not None
        world.clock.advance(seconds=60)

    assert chain.pass_time(3) == [1, 2, 3]


@pytest.mark.parametrize("ends", [True, False])
def test_a_claimed_block_is_left_to_its_worker_for_ten_seconds(
    world: World, ends: bool
) -> None:
    """A worker that died holds it up no longer, and one that failed not at all."""
    flying, chain = [world.broadcast().reserved()], world.chains["local"]
    first, second = (HeadLooks(world.store, world.clock) for _ in range(2))
    head = world.chain.latest_block()
    look = first.begin(chain, flying)
    assert look is not None
    claimed = first.claim(look, head)
    assert claimed is not None
    world.clock.advance(seconds=9.9)
    assert second.begin(chain, flying) is None
    if ends:
        first.release(claimed)
    else:
        world.clock.advance(seconds=0.2)

    other = second.begin(chain, flying)

    assert other is not None
    assert other.has_moved(head)
    assert second.claim(other, head) is not None


def test_a_claim_that_was_renewed_ends_as_the_look_that_began(world: World) -> None:
    """What was sent during the look is new for the next one."""
    looks, head = HeadLooks(world.store, world.clock), world.chain.latest_block()
    chain, sent = world.chains["local"], world.broadcast().reserved()
    look = looks.begin(chain, [sent])
    assert look is not None
    claims = [look]
    for _ in range(2):
        claimed = looks.claim(claims[-1], head)
        assert claimed is not None
        claims.append(claimed)
        world.clock.advance(seconds=9)
        sent = changed(sent, updated_at=world.clock())
    looks.end(claims[-1], head, is_settled=True)

    other = looks.begin(chain, [sent])

    assert claims[1].current.at < claims[2].current.at
    assert other is not None
    assert other.is_new(changed(sent, updated_at=look.current.at))


def test_a_block_of_which_another_worker_looks_is_not_claimed(world: World) -> None:
    """Unless this worker relies on no look of others, which may be pretended."""
    flying, chain = [world.broadcast().reserved()], world.chains["local"]
    looks, head = HeadLooks(world.store, world.clock), world.chain.latest_block()
    look = looks.begin(chain, flying)
    assert look is not None
    world.clock.advance(seconds=1)
    assert HeadLooks(world.store, world.clock).begin(chain, flying) is not None

    assert looks.claim(look, head) is not None
    assert looks.claim(replace(look, last=look.current), head) is None


@pytest.mark.parametrize("pause", [1, 20, 60])
def test_looks_that_an_intruder_writes_delay_a_worker_for_minutes_only(
    chain: Chainlike, pause: int
) -> None:
    """Its own look then asks about everything, however long its passes take."""
    store = chain.world.store
    chain.workers[0].note_busy([])
    chain.look()

    def pretend() -> None:
        last = store.last_look("head 31337")
        seen = (chain.head.number << 24) | 1
        assert store.save_look("head 31337", last, Look(chain.world.clock(), seen))

    looks = list[HeadLook]()
    for _ in range(2 * int(LONGEST_OWN_PAUSE.total_seconds()) // pause):
        chain.world.clock.advance(seconds=pause)
        pretend()
        look = chain.workers[0].begin(
            chain.world.chains["local"], [chain.refund.reserved()]
        )
        looks += [] if look is None else [look]

    assert len(looks) == 2
    assert all(look.has_moved(chain.head) for look in looks)
    assert all(look.is_new(chain.refund.reserved()) for look in looks)


def test_a_look_that_is_never_saved_is_made_after_minutes(world: World) -> None:
    refund = world.broadcast()
    looks = HeadLooks(world.store, world.clock)
    chain = world.chains["local"]
    assert looks.begin(chain, [refund.reserved()]) is not None
    stale = world.store.last_look("head 31337")
    assert stale is not None
    looks._store = _behind(world, stale)
    begun = []
    for _ in range(int(LONGEST_OWN_PAUSE.total_seconds()) + 1):
        begun.append(looks.begin(chain, [refund.reserved()]) is not None)
        world.clock.advance(seconds=1)

    assert begun == [False] * (len(begun) - 1) + [True]


def test_a_worker_without_refunds_in_flight_relies_on_no_looks(
    chain: Chainlike,
) -> None:
    """The first refund after a long pause costs no look at everything."""
    chain.workers[0].note_busy([])
    chain.world.clock.advance(seconds=2 * LONGEST_OWN_PAUSE.total_seconds())
    sent = replace(chain.refund.reserved(), updated_at=chain.world.clock())
    chain.refund = chain.refund.inside(sent)

    assert chain.look() is None  # It was sent a moment ago.
    assert chain.pass_time(13) == [12]


def _behind(world: World, stale: Look) -> Ledger:
    """Return a store of which another worker changes the last look after each read."""

    def last_look(name: str) -> Look:
        after = Look(world.clock() - timedelta(milliseconds=1))
        world.store.save_look(name, stale, after)
        return stale

    return altered(world.store, last_look=last_look)
