"""Draws the faults of calls to ports, before or after the call had its effect."""

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


class CallFault(Enum):
    """A fault of a call.  A late one comes after the effect of the call."""

    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"
    FAILS_BEFORE = "fails before"
    FAILS_AFTER = "result lost"

    @property
    def kills(self) -> bool:
        """Whether the process dies."""
        return self in {CallFault.KILLED_BEFORE, CallFault.KILLED_AFTER}

    @property
    def is_late(self) -> bool:
        """Whether the call has had its effect."""
        return self in {CallFault.KILLED_AFTER, CallFault.FAILS_AFTER}


_MOST_HEADS_BEHIND = 3

_STALL_SECONDS = (20.0, 200.0)

_LATENCY_SECONDS: Mapping[str, float] = {"store": 0.005, "chain": 0.08, "device": 0.05}

# Nodes give these reasons even for transactions that they accept later.
_REASONS = ("insufficient-funds", "nonce-too-high", "nonce-too-low", "other")


class Faults:
    """Draws the faults of a plan; none while ``calm`` is set."""

    def __init__(self, plan: Plan, random: Random) -> None:
        self._plan = plan
        self._random = random
        self.calm = False

    def draw(self, port: str) -> CallFault | None:
        """Return the fault of the next call of *port*, if any."""
        if self.calm:
            return None
        chance = self._random.random()
        late = self._random.random() < 0.5
        if chance < self._plan.kill:
            return CallFault.KILLED_AFTER if late else CallFault.KILLED_BEFORE
        rates = {
            "store": self._plan.store,
            "chain": self._plan.chain,
            "device": self._plan.device,
        }
        if chance < self._plan.kill + rates[port]:
            return CallFault.FAILS_AFTER if late else CallFault.FAILS_BEFORE
        return None

    def latency(self, port: str) -> float:
        """Return the seconds of half a call, or of a process that stalls."""
        if not self.calm and self._random.random() < self._plan.stall:
            return self._random.uniform(*_STALL_SECONDS)
        return self._random.expovariate(1 / _LATENCY_SECONDS[port])

    def lag(self) -> int:
        """Return how many heads the responding node lags."""
        if self.calm or self._random.random() >= self._plan.stale:
            return 0
        return self._random.randint(1, _MOST_HEADS_BEHIND)

    def error(self, port: str, method: str, fault: CallFault) -> HotWalletError:
        """Return the error that the caller gets."""
        if port == "store":
            return StoreUnavailableError("simulated")
        if port == "device":
            throttled = self._random.random() < 0.5
            return (BackendThrottledError if throttled else BackendUnavailableError)(
                "simulated"
            )
        if method == "broadcast" and not fault.is_late and self._random.random() < 0.3:
            return BroadcastRejectedError(
                "simulated", reason=self._random.choice(_REASONS)
            )
        return ChainUnavailableError("simulated")
