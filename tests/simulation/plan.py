"""
The faults of a schedule, and how frequent they are.

Each schedule has only some kinds of faults ("swarm testing"), since frequent faults
hide problems that need a quiet period.
"""

from dataclasses import asdict, dataclass
from random import Random


TURNS = ("rotate", "return", "revoke", "revoke and return", "block")
"""
The administrator's actions: rotate to an unused key, or back to the former one; the
same with a revocation of the active key; or revoke the former key.
"""

_MOST_TURNS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """
    The faults of one schedule until ``calm_at``, in simulated seconds.

    ``kill`` to ``stall`` are chances at each call, ``reorg`` to ``spike_fee`` at each
    block.  ``blocked`` is a number of customers; the other faults happen or do not.
    With ``attended`` an operator accepts foreign transactions.

    ``turns`` are the administrator's actions from ``TURNS``.  A separate random
    generator draws them, so that they change nothing else of a seed.  With ``sweeps``
    the operator empties the addresses of former keys.

    ``hides_sent`` is never drawn.  With it, nodes may lose a transaction that a
    restored ledger forgot, and keep those after it, which no node's count shows.
    """

    requests: int
    calm_at: float
    kill: float
    store: float
    chain: float
    device: float
    stale: float
    stall: float
    reorg: float
    drop: float
    spike_fee: float
    steps_clocks: bool
    blocked: int
    has_foreign: bool
    is_restored: bool
    attended: bool
    hides_sent: bool = False
    turns: tuple[str, ...] = ()
    sweeps: bool = False

    @classmethod
    def draw(cls, random: Random) -> "Plan":
        """Draw a plan."""

        def rate(most: float, chance: float = 0.5) -> float:
            return random.uniform(0, most) if random.random() < chance else 0.0

        return cls(
            requests=random.randint(2, 6),
            calm_at=random.uniform(40, 120),
            kill=rate(0.03),
            store=rate(0.08),
            chain=rate(0.15),
            device=rate(0.6),
            stale=rate(0.5),
            stall=rate(0.01),
            reorg=rate(0.25),
            drop=rate(0.3),
            spike_fee=rate(0.3),
            steps_clocks=random.random() < 0.3,
            blocked=random.randint(1, 4) if random.random() < 0.4 else 0,
            has_foreign=random.random() < 0.15,
            is_restored=random.random() < 0.15,
            attended=random.random() < 0.7,
        )

    @staticmethod
    def draw_turns(random: Random, chance: float) -> tuple[str, ...]:
        """Draw turns with that *chance* of any; at first there is no former key."""
        if random.random() >= chance:
            return ()
        later = [random.choice(TURNS) for _ in range(random.randrange(_MOST_TURNS))]
        return (random.choice(("rotate", "revoke")), *later)

    def __str__(self) -> str:
        """Return the faults that are not zero."""
        there = {name: value for name, value in asdict(self).items() if value}
        return ", ".join(f"{name}={_short(value)}" for name, value in there.items())


def _short(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value
