"""``make dev`` and ``make demo``: locks, ports and exported settings."""

import socket
from pathlib import Path

import pytest

from dev.stack import read_port, running_stack, selected_device


class FirstStartedError(Exception):
    """The first stack has started."""


def test_a_second_stack_is_refused(tmp_path: Path) -> None:
    """It changes no file of the running stack."""
    ledger = tmp_path / "hotwallet.db"

    def report(_: str) -> None:
        ledger.touch()
        with (
            pytest.raises(RuntimeError, match="another stack runs in"),
            running_stack(tmp_path),
        ):
            pass
        raise FirstStartedError

    with pytest.raises(FirstStartedError), running_stack(tmp_path, report=report):
        pass

    assert ledger.exists()


def test_a_used_port_is_refused(tmp_path: Path) -> None:
    """The error before the start names the port and the variable PORT."""
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


def test_a_device_that_the_stack_does_not_have_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise it would sign with SoftHSM, and look like a success."""
    monkeypatch.delenv("USE_KMS", raising=False)
    monkeypatch.delenv("KEY_BACKEND", raising=False)
    assert selected_device("pkcs11") == "pkcs11"

    monkeypatch.setenv("KEY_BACKEND", "my-device")
    with pytest.raises(RuntimeError, match=r"=my-device: .* pkcs11, aws-kms"):
        selected_device("pkcs11", "aws-kms")

    monkeypatch.setenv("KEY_BACKEND", "aws-kms")
    assert selected_device("pkcs11", "aws-kms") == "aws-kms"

    monkeypatch.delenv("KEY_BACKEND")
    monkeypatch.setenv("USE_KMS", "true")
    assert selected_device("pkcs11", "aws-kms") == "aws-kms"


@pytest.mark.parametrize("text", ["abc", "0", "65536", "-1", "8080 ", "٨٠٨٠", "1e3"])
def test_a_port_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """`make dev PORT=abc` ended with a traceback."""
    monkeypatch.setenv("PORT", text)
    with pytest.raises(RuntimeError, match=f"PORT={text} is no port: use a number"):
        read_port()
