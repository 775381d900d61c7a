"""Misfortunes at calls: which, where, and before or after the call had its effect."""

from collections.abc import Mapping
from enum import Enum
from random import Random

from signer.errors import (
    BackendThrottledError,
    BackendUnavailableError,
    BroadcastRejectedError,
    ChainUnavailableError,
    HotWalletError,
    StoreUnavailableError,
)
from tests.simulation.plan import Plan


class Blow(Enum):
    """What hits a call.  After it: the work is done, and the answer is lost."""

    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"
    FAILS_BEFORE = "fails before"
    FAILS_AFTER = "answer lost"

    @property
    def is_deadly(self) -> bool:
        """Whether it takes the process with it."""
        return self in {Blow.KILLED_BEFORE, Blow.KILLED_AFTER}

    @property
    def is_late(self) -> bool:
        """Whether the call has had its effect."""
        return self in {Blow.KILLED_AFTER, Blow.FAILS_AFTER}


_MOST_HEADS_BEHIND = 3

_STALL_SECONDS = (20.0, 200.0)

_LATENCY_SECONDS: Mapping[str, float] = {"store": 0.005, "chain": 0.08, "device": 0.05}

# Nodes say no for reasons that say nothing about the transaction.
_REASONS = ("insufficient-funds", "nonce-too-high", "nonce-too-low", "other")


class Faults:
    """Draws the misfortunes of a plan, as long as it is not calm."""

    def __init__(self, plan: Plan, random: Random) -> None:
        self._plan = plan
        self._random = random
        self.calm = False

    def blow(self, port: str) -> Blow | None:
        """Return what hits the next call of *port*, if anything does."""
        if self.calm:
            return None
        chance = self._random.random()
        late = self._random.random() < 0.5
        if chance < self._plan.kill:
            return Blow.KILLED_AFTER if late else Blow.KILLED_BEFORE
        rates = {
            "store": self._plan.store,
            "chain": self._plan.chain,
            "device": self._plan.device,
        }
        if chance < self._plan.kill + rates[port]:
            return Blow.FAILS_AFTER if late else Blow.FAILS_BEFORE
        return None

    def latency(self, port: str) -> float:
        """Return how long half of a call takes, or the process stands still."""
        if not self.calm and self._random.random() < self._plan.stall:
            return self._random.uniform(*_STALL_SECONDS)
        return self._random.expovariate(1 / _LATENCY_SECONDS[port])

    def lag(self) -> int:
        """Return how many heads the node that answers is behind."""
        if self.calm or self._random.random() >= self._plan.stale:
            return 0
        return self._random.randint(1, _MOST_HEADS_BEHIND)

    def error(self, port: str, method: str, blow: Blow) -> HotWalletError:
        """Return what the caller is told."""
        if port == "store":
            return StoreUnavailableError("simulated")
        if port == "device":
            throttled = self._random.random() < 0.5
            return (BackendThrottledError if throttled else BackendUnavailableError)(
                "simulated"
            )
        if method == "broadcast" and not blow.is_late and self._random.random() < 0.3:
            return BroadcastRejectedError(
                "simulated", reason=self._random.choice(_REASONS)
            )
        return ChainUnavailableError("simulated")
