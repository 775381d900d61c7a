"""Ports for servers that must know them before they start."""

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from dev import ports


def test_a_port_is_given_again_only_after_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its server has no time to start before another process asks."""
    first = ports.free_port()
    choices: Iterator[int] = iter([first, *range(first + 1, first + 1_000), first])

    def choose(_: Sequence[Any]) -> int:
        return next(choices)

    monkeypatch.setattr(secrets, "choice", choose)
    later = [ports.free_port() for _ in range(ports._STARTING)]

    assert first not in later
    assert len({*later}) == len(later)
    monkeypatch.setattr(secrets, "choice", lambda _: first)
    assert ports.free_port() == first
