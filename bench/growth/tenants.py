"""Refunds of one tenant, and of 1,000 tenants in turn."""

import contextlib
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from bench.growth.comparison import Comparison, Durations, Measure, compare
from bench.growth.site import Site, open_site
from signer.config.tenants import Tenant, TenantRegistry


MANY, QUICK = 1_000, 20

_BATCH = 128

_NAMES = ("POST to the broadcast", "refund in a batch of 128: worker")


@contextlib.contextmanager
def tenants(folder: Path, *, is_quick: bool) -> Iterator[list[Comparison]]:
    """Yield the comparison."""
    many = QUICK if is_quick else MANY
    with contextlib.ExitStack() as cleanup:
        cases = []
        for count in (1, many):
            names = [f"tenant-{number}" for number in range(count)]
            registry = TenantRegistry({name: _tenant(name) for name in names})
            path = folder / f"tenants-{count}.db"
            site = cleanup.enter_context(open_site(path, registry))
            label = f"{count:,} tenant{'s' * (count > 1)}"
            cases.append((label, _measure(site, names)))
        yield [compare(_NAMES, *cases, at_least=1 if is_quick else 5)]


def _tenant(name: str) -> Tenant:
    return Tenant(subjects=(name,), max_open_refunds=10_000, gas_per_hour=None)


def _measure(site: Site, names: list[str]) -> Measure:
    turns = cycle(names)

    def measure() -> Durations:
        post = site.post(next(turns))
        for _ in range(_BATCH):
            site.accept(next(turns))
        began = time.perf_counter()
        while site.mover.advance():
            pass
        spent = time.perf_counter() - began
        site.run_pass()
        return dict(zip(_NAMES, (post, spent / _BATCH), strict=True))

    return measure
