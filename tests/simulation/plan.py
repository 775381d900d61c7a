"""
The faults of a schedule, and how frequent they are.

Each schedule has only some kinds of faults ("swarm testing"), since frequent faults
hide problems that need a quiet period.
"""

from dataclasses import asdict, dataclass
from random import Random
from typing import Any


TURNS = ("rotate", "return", "revoke", "revoke and return", "block")
"""
The administrator's actions: rotate to an unused key, or back to the former one; the
same with a revocation of the active key; or revoke the former key.
"""

RESTORED: dict[str, Any] = {"is_restored": True}
"""Changes of a plan so that a ledger is restored."""

WITH_VAULT: dict[str, Any] = {"has_vault": True}
"""Changes of a plan so that a vault pays, and no ledger is restored."""

VAULT_RESTORED: dict[str, Any] = {
    **WITH_VAULT,
    **RESTORED,
    "has_log": False,
    "asks_again": True,
    "repeats_keys": False,
}
"""The same, with a restore without the log."""

SHORT: dict[str, Any] = {**RESTORED, "requests": 3, "calm_at": 50.0}
"""The same, in a schedule that takes less time."""

_MOST_TURNS = 3
_NARROW = 0.3
_LOGGED = 0.65
_ASKED_AGAIN = 0.5
_HIDDEN = 0.6
_REPEATED = 0.6
_RESIGNS = 0.2


@dataclass(frozen=True, slots=True)
class Plan:
    """
    The faults of one schedule until ``calm_at``, in simulated seconds.

    ``kill`` to ``stall`` are chances at each call, ``reorg`` to ``spike_fee`` at each
    block.  ``blocked`` is a number of customers; the other faults happen or do not.
    With ``attended`` an operator accepts foreign transactions.

    ``turns`` are the administrator's actions from ``TURNS``.  A separate random
    generator draws them, so that they change nothing else of a seed, and others
    ``window``: how many transactions of a wallet may have no receipt, and ``part``: how
    many receipts are read before others may be paid.  With ``sweeps`` the operator
    empties the addresses of former keys.

    The fields from ``has_log`` on are of a restore, and a third generator draws them.
    With ``has_log`` the operator has the log, and otherwise states how many
    transactions each wallet has signed, and ``mark_error`` more.  With ``asks_again``
    clients request every refund again; otherwise only those that are missing then.
    With ``hides`` nodes lose some of what the restored ledger has forgotten, and may
    have it again later.  With ``repeats_keys`` the command repeats the changes of keys,
    and otherwise an administrator has done so.  Without ``runs_restore`` the operator
    forgets the command.

    With ``per_batch`` a vault pays, so many refunds with one transaction.  Another
    generator draws it.  ``day_cap``, in base units, is for what it pays until
    ``calm_at``; then another day begins, whose cap is higher.  With ``resigns`` no key
    may pay for some time.
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
    window: int = 0
    part: int = 1
    turns: tuple[str, ...] = ()
    sweeps: bool = False
    has_log: bool = False
    mark_error: int = 0
    asks_again: bool = False
    hides: bool = False
    repeats_keys: bool = False
    runs_restore: bool = False
    per_batch: int = 0
    day_cap: int = 0
    resigns: bool = False

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

    @staticmethod
    def draw_window(random: Random) -> int:
        """Draw a window; mostly there is none, which 0 means."""
        return random.randint(1, 3) if random.random() < _NARROW else 0

    @staticmethod
    def draw_vault(random: Random) -> dict[str, Any]:
        """Draw a vault: fields of a plan."""
        return {
            "requests": random.randint(2, 10),
            "blocked": random.randint(0, 3),
            "per_batch": random.randint(1, 4),
            "day_cap": random.choice((10**12, random.randint(2, 20) * 10**6)),
            "resigns": random.random() < _RESIGNS,
        }

    @staticmethod
    def draw_restore(random: Random) -> dict[str, Any]:
        """Draw how a ledger is restored: fields of a plan."""
        has_log = random.random() < _LOGGED
        return {
            "has_log": has_log,
            "mark_error": random.choice((0, 0, 1, 3)),
            "asks_again": not has_log or random.random() < _ASKED_AGAIN,
            "hides": random.random() < _HIDDEN,
            "repeats_keys": has_log and random.random() < _REPEATED,
            "runs_restore": True,
        }

    def __str__(self) -> str:
        """Return the faults that are not zero."""
        there = {name: value for name, value in asdict(self).items() if value}
        return ", ".join(f"{name}={_short(value)}" for name, value in there.items())


def _short(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value
