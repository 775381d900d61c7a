"""A worker's pass and a refund with one wallet, and with the wallets of 100 keys."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.growth.comparison import Comparison, Durations, Measure, Stopwatch, compare
from bench.growth.site import Site, open_site
from signer.model.key import KeyState
from signer.model.wallet import Wallet
from tests.support.keys import key_at, made_active


MANY, QUICK = 100, 10

_PASSES = 5
"""One of so many passes checks the wallets."""

_NAMES = (
    "POST to the broadcast",
    "pass of a worker, with its share of the wallet check",
)


@contextlib.contextmanager
def wallets(folder: Path, *, is_quick: bool) -> Iterator[list[Comparison]]:
    """Yield the comparison; all keys but one are retired, after rotations."""
    many = QUICK if is_quick else MANY
    with contextlib.ExitStack() as cleanup:
        cases = []
        for count in (1, many):
            site = cleanup.enter_context(open_site(folder / f"wallets-{count}.db"))
            _rotate(site, count - 1)
            label = f"{count} wallet{'s' * (count > 1)}"
            cases.append((label, _measure(site)))
        yield [compare(_NAMES, *cases, at_least=1 if is_quick else 5)]


def _rotate(site: Site, count: int) -> None:
    """Give the ring *count* former keys, each with a wallet that has paid."""
    for number in range(1, count + 1):
        address = f"0x{number:040d}"  # It has no letters, so its checksum is right.
        made_active(site.store, key_at(address))
        site.store.open_wallet(Wallet(site.network.chain_id, address, 0, 0))
    if count:
        made_active(site.store, site.key)
    for _ in range(_PASSES):
        site.run_pass()
    ring = site.store.keys()
    states = [key.state for key in ring]
    if states.count(KeyState.RETIRED) != count:
        raise RuntimeError("the worker did not retire the former keys")


def _measure(site: Site) -> Measure:
    def measure() -> Durations:
        watch = Stopwatch()
        site.post()
        site.run_pass()  # Its refund is confirmed.
        post = site.post()
        watch.time(_NAMES[1], lambda: _passes(site), _PASSES)
        return {**watch.durations, _NAMES[0]: post}

    return measure


def _passes(site: Site) -> None:
    for _ in range(_PASSES):
        site.run_pass()
