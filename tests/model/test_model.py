"""
The model, the code and the audit log agree, and the model finds planted bugs.

``make model`` searches all configurations; here are the fast checks.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from signer.model.refund import Status
from tests.fixtures.ledger import status_moves
from tests.model.configurations import (
    LONG,
    PLANTED_BUGS,
    WITH_LOG,
    Bounds,
    Configuration,
    PlantedBug,
)
from tests.model.spin import MODEL, Spin
from tests.support.conformance.check import check_conformance
from tests.support.conformance.verdict import Rule
from tests.support.traces import Recorder


ROOT = Path(__file__).resolve().parents[2]

_MOVE = re.compile(r"(?:MOVE|ASSIGN|STEP|RELEASE)\(\w+, ([A-Z_]+), ([A-Z_]+)\)")

# A revocation takes the nonce of an unsigned refund away, in SQL.
_REVOCATION = (Status.RESERVED, Status.QUEUED)

# What a batch did not pay may get another one; the code has no batches yet.
_RETRY = (Status.FAILED, Status.QUEUED)

# By the tests of the simulation; the first one has several bugs, with their names.
_TWINS = {
    "test_a_planted_bug_is_found": None,
    "test_unchecked_former_wallets_are_found": "unchecked former wallets",
    "test_a_sweep_to_a_former_key_is_found": "a sweep to a former key",
    "test_a_restore_sees_after_a_gap": "a gap after a restore without the log",
    "test_a_mark_that_is_two_too_low_is_found": "a high-water mark that is too low",
    "test_a_log_without_signatures_is_found": "a log that is written after the commit",
    "test_a_restore_without_fillers_is_found": "gaps that are not filled",
    "test_a_planted_bug_of_batches_is_found": "one receipt for all payments",
    "test_what_was_paid_is_not_paid_again": None,  # It shows a protection.
}

_SEEDS = range(6)

_RUN = {"payments": 3, "workers": 2, "crashes": 2, "losses": 2, "reorgs": 2}
_RUN |= {"replacements": 2, "reverts": 1, "cancels": 1}
_ROTATING = {"payments": 3, "workers": 2, "rotations": 2, "revocations": 1}
_ROTATING |= {"reinstatements": 1}
_NARROW = {**_RUN, "window": 1}

# Together they reach every move in a few seconds.
_SMALL: tuple[Bounds, ...] = (
    {"payments": 2, "workers": 1, "crashes": 1, "reorgs": 1, "cancels": 1},
    {"payments": 2, "workers": 1, "reverts": 1, "replacements": 1, "foreigners": 1},
    {"payments": 2, "workers": 1, "rotations": 1, "revocations": 1, "crashes": 1},
    {"payments": 2, "workers": 1, "restores": 1, "mode": WITH_LOG},
    {"payments": 1, "workers": 1, "restores": 1, "rotations": 1},
    {"payments": 1, "workers": 1, "restores": 1, "larges": 1, "cancels": 1},
    {"payments": 1, "workers": 1, "lowered": 1},
    {"payments": 2, "workers": 1, "batch": 1, "partials": 1, "caps": 1},
)


@pytest.fixture(scope="module")
def spin(tmp_path_factory: pytest.TempPathFactory) -> Spin:
    """The model, compiled once for all tests."""
    made = Spin(tmp_path_factory.mktemp("model"), optimised=False)
    made.compile()
    return made


def _moves() -> Iterator[tuple[int, tuple[Status, Status]]]:
    for number, line in enumerate(MODEL.read_text().splitlines(), 1):
        if not line.startswith("#"):
            for before, after in _MOVE.findall(line):
                yield number, (Status[before], Status[after])


def test_the_model_has_the_moves_of_the_code() -> None:
    """Those of both machines, that of a revocation, and that of a retry (I4)."""
    moves = status_moves()
    of_code = {(before, after) for before in moves for after in moves[before]}

    assert {move for _, move in _moves()} == of_code | {_REVOCATION, _RETRY}


@pytest.mark.needs("spin", "cc")
def test_small_searches_reach_every_move(spin: Spin) -> None:
    """No move of the model is dead, and no assertion fails (I1 to I4)."""
    reached = set[tuple[Status, Status]]()
    for bounds in _SMALL:
        found = spin.search(bounds, is_live=False)
        assert found.violation is None, bounds
        reached |= {move for line, move in _moves() if line not in found.unreached}

    assert {move for _, move in _moves()} == reached


@pytest.fixture(scope="module")
def optimised(tmp_path_factory: pytest.TempPathFactory) -> Spin:
    """The model for long searches."""
    made = Spin(tmp_path_factory.mktemp("optimised"), optimised=True, megabytes=6_000)
    made.compile()
    return made


@pytest.mark.soak
@pytest.mark.parametrize("long", LONG, ids=lambda long: long.name)
@pytest.mark.needs("spin", "cc")
def test_a_long_search_finds_nothing(optimised: Spin, long: Configuration) -> None:
    """It has more payments, workers or events than those of ``make model``."""
    assert optimised.search(long.bounds, is_live=long.is_live).violation is None


@pytest.mark.parametrize("bug", PLANTED_BUGS, ids=lambda bug: bug.name)
@pytest.mark.needs("spin", "cc")
def test_a_planted_bug_is_found(spin: Spin, bug: PlantedBug) -> None:
    """The search names the property that it violates."""
    found = spin.search(bug.bounds, is_live=bug.is_live)

    assert bug.violates in (found.violation or "nothing")


def test_every_bug_of_the_simulation_has_its_twin() -> None:
    """A new planted bug there needs one here."""
    text = (ROOT / "tests/simulation/test_planted_bugs.py").read_text()
    ids = re.search(r"ids=\[(.*?)\]", text, re.DOTALL)
    assert ids is not None
    planted = set(re.findall(r'"([a-z ]+)"', ids[1]))

    assert set(re.findall(r"def (test_\w+)", text)) == set(_TWINS)
    assert planted | set(filter(None, _TWINS.values())) <= {
        each.name for each in PLANTED_BUGS
    }


@pytest.mark.parametrize(
    "bounds", [_RUN, _ROTATING, _NARROW], ids=["faults", "rotation", "window"]
)
@pytest.mark.needs("spin", "cc")
def test_runs_of_the_model_are_traces(spin: Spin, bounds: Bounds) -> None:
    """The audit records of random runs conform."""
    for seed in _SEEDS:
        trace = _record(spin.simulate(bounds, seed))
        found = check_conformance(trace.records)
        assert found.is_good, (seed, found.violations)
        assert found.refunds > 0, seed


@pytest.mark.needs("spin", "cc")
def test_runs_that_sign_with_a_new_nonce_are_refused(spin: Spin) -> None:
    """The records of that planted bug show it."""
    for seed in range(20):
        events = spin.simulate({**_RUN, "losses": 3, "bug": 2}, seed)
        violations = check_conformance(_record(events).records).violations
        if Rule.ONE_NONCE in {each.rule for each in violations}:
            return

    pytest.fail("no run shows it")


def _record(events: list[dict[str, str]]) -> Recorder:
    """Return the audit records of the *events* of a run."""
    trace = Recorder()
    for event in events:
        name, numbers = event["name"], _numbers(event)
        refund, key, worker = (
            numbers.get(each, 0) for each in ("refund", "key", "worker")
        )
        details: dict[str, Any] = {
            "nonce": numbers.get("nonce", 0),
            "attempt": numbers.get("attempt", 0),
            "kind": "noop" if numbers.get("noop") else "transfer",
        }
        if name in {"accept", "cancel"}:
            getattr(trace, name)(refund)
        elif name == "reserve":
            trace.reserve(refund, key, worker)
        elif name == "rotate":
            trace.rotate(key - 1, key)
        elif name in {"revoke", "reinstate"}:
            getattr(trace, name)(key)
        elif name == "intend":
            trace.intend(refund, key, worker, **details)
        else:
            trace.sign(refund, key, worker, **details)
    return trace


def _numbers(event: dict[str, str]) -> dict[str, int]:
    return {name: int(text) for name, text in event.items() if name != "name"}
