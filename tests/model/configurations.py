"""The configurations that are searched exhaustively, and the planted bugs."""

from collections.abc import Mapping
from dataclasses import dataclass


Bounds = Mapping[str, int]

WITH_LOG, HIGH_WATER, WITH_LATE_LOG, LOW_WATER = 1, 2, 3, 4
"""How a database is restored: ``mode`` of the model."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """
    Bounds of one search; what is not named happens never.

    ``is_live`` searches for payments that never end, with weak fairness; otherwise the
    search is for a violated assertion.
    """

    name: str
    bounds: Bounds
    is_live: bool = False


@dataclass(frozen=True, slots=True)
class PlantedBug:
    """A bug, the bounds under which it shows, and the property that it violates."""

    name: str
    bounds: Bounds
    violates: str
    is_live: bool = False


def _two(**bounds: int) -> Bounds:
    return {"payments": 2, "workers": 2, **bounds}


def _one(**bounds: int) -> Bounds:
    return {"payments": 2, "workers": 1, **bounds}


def _fair(**bounds: int) -> Bounds:
    return {"payments": 2, "workers": 1, "fair": 1, **bounds}


CONFIGURATIONS = (
    Configuration(
        "a crash, a reorganisation, a lost message", _two(crashes=1, reorgs=1, losses=1)
    ),
    Configuration("two crashes, two reorganisations", _two(crashes=2, reorgs=2)),
    Configuration(
        "a replacement, a dropped transaction", _two(replacements=1, drops=1)
    ),
    Configuration(
        "one worker, a replacement, a dropped transaction, a reorganisation",
        _one(replacements=1, drops=1, reorgs=1),
    ),
    Configuration("three payments at once", {"payments": 3, "workers": 2}),
    Configuration("two rotations, a crash", _two(rotations=2, crashes=1)),
    Configuration("a rotation, a revocation", _two(rotations=1, revocations=1)),
    Configuration(
        "a rotation, a revocation, a reinstatement, a replacement, a crash",
        _one(rotations=1, revocations=1, reinstatements=1, replacements=1, crashes=1),
    ),
    Configuration(
        "a cancellation, a revert, a foreign transaction",
        _two(cancels=1, reverts=1, foreigners=1),
    ),
    Configuration(
        "one liar of three nodes, a lag, a reorganisation",
        _two(liar=1, losses=1, reorgs=1),
    ),
    Configuration("a sweep, a rotation", _two(rotations=1, sweep=1)),
    Configuration(
        "an approval, a cancellation, a crash", _two(larges=1, cancels=1, crashes=1)
    ),
    Configuration("an amount that is lowered, two crashes", _two(lowered=1, crashes=2)),
    Configuration(
        "an approval, a restore without the log, a rotation",
        {"payments": 1, "workers": 2, "restores": 1, "rotations": 1, "larges": 1},
    ),
    Configuration(
        "a restore without the log, two rotations, a crash",
        {"payments": 1, "workers": 2, "restores": 1, "rotations": 2, "crashes": 1},
    ),
    Configuration(
        "a restore with the log, a crash, a cancellation",
        _one(restores=1, mode=WITH_LOG, crashes=1, cancels=1),
    ),
    Configuration(
        "a restore with the log, a rotation",
        _one(restores=1, mode=WITH_LOG, rotations=1),
    ),
    Configuration(
        "a restore with the log, a reorganisation, a lost message",
        _one(restores=1, mode=WITH_LOG, reorgs=1, losses=1),
    ),
    Configuration(
        "one payment, a restore with the log, a replacement, a dropped transaction",
        {**_two(restores=1, mode=WITH_LOG, replacements=1, drops=1), "payments": 1},
    ),
    Configuration(
        "a restore with the log, a rotation, a crash",
        {**_two(restores=1, mode=WITH_LOG, rotations=1, crashes=1), "payments": 1},
    ),
    Configuration(
        "a restore with the high-water mark, a crash",
        _one(restores=1, mode=HIGH_WATER, crashes=1),
    ),
    Configuration(
        "a restore with the high-water mark, a rotation",
        _one(restores=1, mode=HIGH_WATER, rotations=1),
    ),
    Configuration(
        "a batch, a refused payment, a reorganisation",
        _two(batch=1, partials=1, reorgs=1),
    ),
    Configuration(
        "a batch, a refused payment, a day's cap, two reorganisations",
        _one(batch=1, partials=1, caps=1, reorgs=2),
    ),
    Configuration(
        "a batch of three payments, a refused one, a day's cap",
        {"payments": 3, "workers": 1, "batch": 1, "partials": 1, "caps": 1},
    ),
    Configuration(
        "a batch, a no-op or a revert, a replacement, a day's cap, a crash",
        _one(batch=1, reverts=1, replacements=1, caps=1, crashes=1),
    ),
    Configuration(
        "a batch, a rotation, a revocation, a day's cap",
        _one(batch=1, rotations=1, revocations=1, caps=1, partials=1),
    ),
    Configuration(
        "a batch, an amount that is lowered, a cancellation, a day's cap",
        _one(batch=1, lowered=1, cancels=1, caps=1),
    ),
    Configuration(
        "a batch, a restore with the log, a refused payment",
        _one(batch=1, restores=1, mode=WITH_LOG, partials=1),
    ),
    Configuration(
        "a batch, a restore with the high-water mark, a refused payment",
        _one(batch=1, restores=1, mode=HIGH_WATER, partials=1),
    ),
    Configuration(
        "a batch, a restore with the high-water mark, a day's cap",
        {**_two(batch=1, restores=1, mode=HIGH_WATER, caps=1), "payments": 1},
    ),
    Configuration(
        "a window of one, a reorganisation, a cancellation, a crash",
        _two(window=1, reorgs=1, cancels=1, crashes=1),
    ),
    Configuration(
        "a window of one, three payments, a dropped transaction",
        {"payments": 3, "workers": 1, "window": 1, "drops": 1},
    ),
    Configuration(
        "a window of one, a rotation, a lost message",
        _two(window=1, rotations=1, losses=1),
    ),
    Configuration(
        "a window of one, batches, a day's cap, a reorganisation",
        _two(window=1, batch=1, caps=1, reorgs=1),
    ),
    Configuration(
        "a window of one, batches, a rotation, a revocation, a crash",
        _two(window=1, batch=1, rotations=1, revocations=1, crashes=1),
    ),
    Configuration(
        "ends: a crash, a lost message, a reorganisation",
        _fair(crashes=1, losses=1, reorgs=1),
        is_live=True,
    ),
    Configuration(
        "ends: two workers, a replacement, a dropped transaction",
        {**_fair(replacements=1, drops=1), "payments": 1, "workers": 2},
        is_live=True,
    ),
    Configuration(
        "ends: two workers, a lost message",
        {**_fair(losses=1), "workers": 2},
        is_live=True,
    ),
    Configuration(
        "ends: a rotation, a cancellation, a revert, a crash",
        _fair(rotations=1, cancels=1, reverts=1, crashes=1),
        is_live=True,
    ),
    Configuration("ends: a foreign transaction", _fair(foreigners=1), is_live=True),
    Configuration(
        "ends: one liar of three nodes, a lag, a crash",
        _fair(liar=1, losses=1, crashes=1),
        is_live=True,
    ),
    Configuration(
        "ends: a sweep, a rotation", _fair(sweep=1, rotations=1), is_live=True
    ),
    Configuration(
        "ends: an approval, an amount that is lowered, a crash",
        _fair(larges=1, lowered=1, crashes=1),
        is_live=True,
    ),
    Configuration(
        "ends: a restore without the log, a rotation",
        {**_fair(restores=1, rotations=1), "payments": 1},
        is_live=True,
    ),
    Configuration(
        "ends: one payment, a restore with the log",
        {**_fair(restores=1, mode=WITH_LOG), "payments": 1},
        is_live=True,
    ),
    Configuration(
        "ends: one payment, a restore with the high-water mark",
        {**_fair(restores=1, mode=HIGH_WATER), "payments": 1},
        is_live=True,
    ),
    Configuration(
        "ends: a batch, a refused payment, a day's cap, a reorganisation",
        _fair(batch=1, partials=1, caps=1, reorgs=1),
        is_live=True,
    ),
    Configuration(
        "ends: a batch, a no-op or a revert, a rotation",
        _fair(batch=1, reverts=1, rotations=1),
        is_live=True,
    ),
    Configuration(
        "ends: a window of one, a foreign transaction, a cancellation, a crash",
        _fair(window=1, foreigners=1, cancels=1, crashes=1),
        is_live=True,
    ),
    Configuration(
        "ends: a window of one, two workers, a reorganisation",
        {**_fair(window=1, reorgs=1), "workers": 2},
        is_live=True,
    ),
)

LONG = (
    Configuration(
        "a replacement, a dropped transaction, a reorganisation",
        _two(replacements=1, drops=1, reorgs=1),
    ),
    Configuration(
        "a rotation, a revocation, a crash", _two(rotations=1, revocations=1, crashes=1)
    ),
    Configuration(
        "a rotation, a revocation, a reinstatement",
        _two(rotations=1, revocations=1, reinstatements=1),
    ),
    Configuration(
        "a restore with the log, a replacement, a dropped transaction",
        _one(restores=1, mode=WITH_LOG, replacements=1, drops=1),
    ),
    Configuration(
        "a restore with the high-water mark, a rotation, a crash",
        {**_two(restores=1, mode=HIGH_WATER, rotations=1, crashes=1), "payments": 1},
    ),
    Configuration(
        "a batch, two rotations, a crash", _two(batch=1, rotations=2, crashes=1)
    ),
    Configuration(
        "a batch, a restore with the log, a refused payment, a day's cap",
        _one(batch=1, restores=1, mode=WITH_LOG, partials=1, caps=1),
    ),
    Configuration(
        "ends: a restore with the log", _fair(restores=1, mode=WITH_LOG), is_live=True
    ),
    Configuration(
        "ends: a restore with the high-water mark",
        _fair(restores=1, mode=HIGH_WATER),
        is_live=True,
    ),
    Configuration(
        "a batch of three payments, two workers, a refused one, a day's cap",
        {"payments": 3, "workers": 2, "batch": 1, "partials": 1, "caps": 1},
    ),
    Configuration(
        "a batch, two workers, a restore with the high-water mark, a refused payment",
        _two(batch=1, restores=1, mode=HIGH_WATER, partials=1),
    ),
)
"""
Searches for ``make soak``: of seconds, and two of 20 million states and 5 GB.

``make model`` searches each of their events with fewer payments, workers or events.
"""

_ENDED_FIRST = "(final[tk[1]]>tn[1])"
_TWICE = "!((outcome[i]&made))"
_OWN_REASON = "( !(batch)||"
_ASKED_ONCE = "!((((((mined["
_WINDOW = "( !(window)||"
_FINAL_PAYMENT = "(final[tk[x]]>tn[x])&&"

PLANTED_BUGS = (
    PlantedBug("no comparison of versions", _two(bug=1), "(ts[x]=="),
    PlantedBug("a new nonce", _two(bug=2, losses=1), _TWICE),
    PlantedBug("early broadcast", _two(bug=3), "(recorded&(1<<m))"),
    PlantedBug("one confirmation", _two(bug=4), _FINAL_PAYMENT),
    PlantedBug(
        "only the last hash",
        {**_fair(bug=5, replacements=1), "payments": 1},
        "acceptance cycle",
        is_live=True,
    ),
    PlantedBug(
        "unchecked former wallets",
        {"payments": 1, "workers": 1, "restores": 1, "rotations": 1, "bug": 6},
        _TWICE,
    ),
    PlantedBug(
        "a sweep to a former key",
        {"payments": 1, "workers": 1, "rotations": 1, "sweep": 1, "bug": 7},
        "(target!=serving)",
    ),
    PlantedBug("a gap after a restore without the log", _one(restores=1), _TWICE),
    PlantedBug(
        "a log that is written after the commit",
        _one(restores=1, crashes=2, mode=WITH_LATE_LOG),
        _TWICE,
    ),
    PlantedBug(
        "a high-water mark that is too low", _one(restores=1, mode=LOW_WATER), _TWICE
    ),
    PlantedBug(
        "gaps that are not filled",
        {**_fair(restores=1, mode=HIGH_WATER, drops=1, bug=13), "payments": 1},
        "acceptance cycle",
        is_live=True,
    ),
    PlantedBug(
        "a forgotten rotation",
        {"payments": 1, "workers": 1, "restores": 1, "rotations": 1, "bug": 11},
        _TWICE,
    ),
    PlantedBug("one node is trusted", _one(liar=1, bug=8), _FINAL_PAYMENT),
    PlantedBug("a cancelled refund is signed", _two(cancels=1, bug=9), "!(asked[p])"),
    PlantedBug(
        "an unapproved refund is paid",
        {"payments": 1, "workers": 1, "lowered": 1, "bug": 12},
        "decision[p]==1",
    ),
    PlantedBug(
        "a second transaction before the first has ended",
        _one(partials=1, bug=14),
        _ENDED_FIRST,
    ),
    PlantedBug(
        "payments that a replacement changes",
        _one(batch=1, replacements=1, bug=15),
        _TWICE,
    ),
    PlantedBug(
        "one receipt for all payments",
        _one(batch=1, partials=1, bug=16),
        _FINAL_PAYMENT,
    ),
    PlantedBug(
        "a payment that fails while a restore is checked",
        {**_one(batch=1, restores=1, mode=HIGH_WATER, caps=1, bug=17), "payments": 1},
        "(ps[i]==0)",
    ),
    PlantedBug(
        "a batch with a cancelled payment",
        _one(batch=1, cancels=1, bug=18),
        "!(asked[i])",
    ),
    PlantedBug(
        "a day's cap that fails a payment", _one(batch=1, caps=1, bug=19), _OWN_REASON
    ),
    PlantedBug(
        "a rejected payment that fails its batch",
        _two(batch=1, lowered=1, bug=20),
        _OWN_REASON,
    ),
    PlantedBug(
        "a refused payment that is tried again",
        _one(batch=1, partials=1, bug=21),
        _ASKED_ONCE,
    ),
    PlantedBug(
        "the outcome that was seen first",
        _one(batch=1, partials=1, reorgs=1, bug=22),
        _FINAL_PAYMENT,
    ),
    PlantedBug(
        "one mark of a batch after a restore",
        _one(batch=1, restores=1, mode=HIGH_WATER, bug=23),
        _TWICE,
    ),
    PlantedBug(
        "the oldest transaction in the log",
        _one(batch=1, restores=1, mode=WITH_LOG, caps=1, bug=24),
        "(kind||",
    ),
    PlantedBug(
        "a revocation that releases one payment",
        _one(batch=1, rotations=1, revocations=1, bug=25),
        "(pt[0]!=x)",
    ),
    PlantedBug("a window that is counted early", _two(window=1, bug=26), _WINDOW),
    PlantedBug("a place that a broadcast frees", _one(window=1, bug=27), _WINDOW),
    PlantedBug(
        "a place that an end does not free",
        _fair(window=1, bug=28),
        "acceptance cycle",
        is_live=True,
    ),
    PlantedBug(
        "a revoked key signs", _two(rotations=1, revocations=1, bug=10), "!(revoked[k])"
    ),
)
