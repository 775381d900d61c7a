"""``make dev`` and ``make demo``: what the terminals beside them see."""

import socket
from pathlib import Path

import pytest

from dev.stack import exports, running_stack


class FirstIsUpError(Exception):
    """The first stack has begun, and need not go on."""


def test_a_second_stack_leaves_the_first_its_ledger(tmp_path: Path) -> None:
    """Where a stack runs, another one is refused before it touches anything."""
    ledger = tmp_path / "hotwallet.db"

    def report(_: str) -> None:
        ledger.touch()
        with (
            pytest.raises(RuntimeError, match="another stack runs in"),
            running_stack(tmp_path),
        ):
            pass
        raise FirstIsUpError

    with pytest.raises(FirstIsUpError), running_stack(tmp_path, report=report):
        pass

    assert ledger.exists()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """Another server on the port is told before anything starts, with the way out."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(RuntimeError, match=f"127.0.0.1:{port} .*PORT="),
            running_stack(tmp_path, port=port),
        ):
            pass

    assert [file.name for file in tmp_path.iterdir()] == ["stack.lock"]


def test_another_terminal_gets_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what was set where it was started: ``USE_KMS=true make dev``."""
    monkeypatch.setenv("USE_KMS", "true")
    told = exports({"USE_KMS": "true", "APP_ENV": "development", "HOME": "/home/me"})

    assert "export USE_KMS=true\n" in told
    assert "export APP_ENV=development\n" in told
    assert "HOME=" not in told
