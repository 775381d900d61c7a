"""
What a seed has in store: which misfortunes there are at all, and how often.

Each schedule has only some of them ("swarm testing"), since those that are frequent
everywhere hide what needs a quiet hour.
"""

from dataclasses import asdict, dataclass
from random import Random


TURNS = ("rotate", "return", "flee", "flee back", "block")
"""
What is done with keys: rotate to an unused one, or back to the one before; flee to
either from a compromised one, which is given up; or give up the one before.
"""

_MOST_TURNS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """
    The misfortunes of one schedule, until ``calm_at``, in simulated seconds.

    Those from ``kill`` to ``stall`` are chances at each call; from ``reorg`` to
    ``soar``, at each block; ``blocked`` counts customers; the rest happens or does
    not.  ``attended`` says whether somebody accepts foreign transactions.

    ``turns`` are those of ``TURNS`` that an administrator takes, one after the other.
    They are drawn by a chance of their own, and do not change what else a seed has in
    store.  ``sweeps`` says whether whoever attends empties former keys' addresses.

    ``hides_sent`` is never drawn.  With it, nodes may lose what a restored ledger
    forgot, and keep what is behind it, which then no count of a node's shows.
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
    soar: float
    steps_clocks: bool
    blocked: int
    has_foreign: bool
    is_restored: bool
    attended: bool
    hides_sent: bool = False
    turns: tuple[str, ...] = ()
    sweeps: bool = False

    @classmethod
    def drawn(cls, random: Random) -> "Plan":
        """Return what *random* has in store."""

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
            soar=rate(0.3),
            steps_clocks=random.random() < 0.3,
            blocked=random.randint(1, 4) if random.random() < 0.4 else 0,
            has_foreign=random.random() < 0.15,
            is_restored=random.random() < 0.15,
            attended=random.random() < 0.7,
        )

    @staticmethod
    def turns_drawn(random: Random, chance: float) -> tuple[str, ...]:
        """Return turns, with that *chance* of any: the first finds no key before."""
        if random.random() >= chance:
            return ()
        later = [random.choice(TURNS) for _ in range(random.randrange(_MOST_TURNS))]
        return (random.choice(("rotate", "flee")), *later)

    def __str__(self) -> str:
        """Name what there is, and nothing else."""
        there = {name: value for name, value in asdict(self).items() if value}
        return ", ".join(f"{name}={_short(value)}" for name, value in there.items())


def _short(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value
