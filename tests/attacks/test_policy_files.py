"""
A person who can write the files of rules of a running service, alone.

Two administrators must agree, and this person is none, or one of them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from backends.sql import SQLStore
from signer.errors import ApprovalRequiredError
from tests.support.limits import ALICE, WHY, Hosts
from tests.support.policy_reload import Process, compiled, write


STRICT = '@id("strict") forbid (principal, action, resource);'
OTHER = (
    '@id("other") forbid (principal, action, resource) when { context.path == "x" };'
)
LAX = '@id("lax") permit (principal, action, resource);'

_PROCESSES = ("worker", "api", "refunds", "admin", "sign")

_LOOKS = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a rule that the person wants to get rid of."""
    write(tmp_path / "policy", own=STRICT)
    return tmp_path / "policy"


@pytest.fixture
def processes(store: SQLStore, folder: Path) -> list[Process]:
    """One process of each kind, all with the strict rule."""
    hosts = Hosts(store)
    return [Process(hosts, folder, kind) for kind in _PROCESSES]


def _are_strict(processes: list[Process], times: int = _LOOKS) -> bool:
    """Return whether all processes keep their rules, however often they look."""
    strict = compiled({"own.cedar": STRICT}).hash
    return {process.look(times) for process in processes} == {strict}


def test_the_rule_is_replaced_removed_or_renamed(
    processes: list[Process], folder: Path
) -> None:
    for texts in ({"own": LAX}, {"other": STRICT}, {"own": STRICT, "more": LAX}, {}):
        write(folder, **texts)

        assert _are_strict(processes)
        assert {process.policy.problem is None for process in processes} == {False}


def test_a_pipe_in_place_of_a_file(processes: list[Process], folder: Path) -> None:
    """Reading it would wait; then neither rules nor alerts would come any more."""
    write(folder)
    os.mkfifo(folder / "own.cedar")

    assert _are_strict(processes)
    assert {process.policy.problem is None for process in processes} == {False}


def test_rules_that_take_long_to_compile(
    processes: list[Process], folder: Path
) -> None:
    """Only approved ones are compiled in a running process."""

    def compile_(rules: Mapping[str, str]) -> NoReturn:
        raise AssertionError(rules)

    for process in processes:
        process.compile = compile_
    write(folder, own=STRICT * 1000)

    assert _are_strict(processes)


def test_the_folder_is_removed(processes: list[Process], folder: Path) -> None:
    write(folder)
    folder.rmdir()

    assert _are_strict(processes)


def test_with_the_approval_of_other_rules(
    processes: list[Process], folder: Path
) -> None:
    """Also if the approved files are there at every other look."""
    hosts = processes[0].hosts
    hosts.approve("1000", {"own.cedar": OTHER})
    for text in (LAX, OTHER, LAX, OTHER, LAX):
        write(folder, own=text)
        assert _are_strict(processes, 1)

    assert _are_strict(processes)


def test_an_approval_counts_once(processes: list[Process], folder: Path) -> None:
    """The rules from before need another one, and so do the approved ones after it."""
    hosts = processes[0].hosts
    hosts.approve("1000", {"own.cedar": OTHER})
    write(folder, own=OTHER)
    other = {process.look() for process in processes}
    write(folder, own=STRICT)
    again = {process.look(_LOOKS) for process in processes}

    assert other == again == {compiled({"own.cedar": OTHER}).hash}


def test_by_one_administrator(processes: list[Process], folder: Path) -> None:
    """To ask is not to approve."""
    write(folder, own=LAX)
    for _ in range(2):
        with pytest.raises(ApprovalRequiredError):
            processes[0].hosts.guard(rules={"own.cedar": LAX}).request(
                ALICE.because(WHY)
            )

    assert _are_strict(processes)
