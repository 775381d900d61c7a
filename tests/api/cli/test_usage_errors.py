"""A usage error explains the mistake and shows no whole key id."""

from pathlib import Path

import pytest

from tests.api.commands import Run
from tests.support.programs import run_python


UUID = "e9ec0d42-2f1e-44cd-9066-2b4c499c2654"
ARN = f"arn:aws:kms:eu-central-1:111122223333:key/{UUID}"
KEY_IDS = [UUID, f"mrk-{UUID.replace('-', '')}", UUID.replace("-", "").upper()]

MISTYPED = [
    "{}",
    "{} --help",
    "keys {}",
    "keys {} --help",
    "keys list {}",
    "keys list --{}",
    "keys rotate {arn} {}",
    "keys rotate {arn} --{}",
    "keys rotate {arn} --wait {}",
    "keys rotate {arn} --wait={}",
    "keys failover {} {}",
    "keys revoke {} {}",
    "keys sweep {} {}",
    "refund explain rf_0 {}",
    "nonce {}",
    "audit verify /nowhere/{}",
    "softhsm import --file {}",
    "worker --interval {}",
    "token --role {}",
    "token --seconds {}",
    "doctor {}",
]


@pytest.mark.parametrize("typed", MISTYPED)
def test_a_mistyped_command(hotwallet: Run, typed: str) -> None:
    """Status 2; the message has at most eight characters of a key id."""
    for key_id in KEY_IDS:
        finished = hotwallet(*typed.format(key_id, key_id, arn=ARN).split())

        assert (finished.status, finished.out) == (2, "")
        assert "Error: " in finished.err
        assert key_id not in finished.err
        assert key_id[:8] + "..." in finished.err
        assert ARN not in finished.err


def test_an_address_is_quoted(hotwallet: Run) -> None:
    """An address is not a key id, and is shown as it was typed."""
    address = "0x17135a05eF2397dB21A16703Dfcb45e76830aD41"

    assert f"({address})" in hotwallet("keys", "list", address).err


_BROKEN_IMPORT = """
import sys
from api.cli.__main__ import cli, main
from api.cli.lazy import LazyCommand

sys.path.insert(0, sys.argv.pop(1))
cli.lazy = {"broken": LazyCommand("broken_command:command", "")}
main()
"""


def test_a_command_that_cannot_be_imported(tmp_path: Path) -> None:
    """The message of an error at import is not printed either."""
    (tmp_path / "broken_command.py").write_text(f"raise RuntimeError({UUID!r})")

    finished = run_python("-c", _BROKEN_IMPORT, str(tmp_path), "broken", environ={})

    assert (finished.returncode, finished.stdout) == (1, "")
    assert "broken_command:1" in finished.stderr
    assert UUID not in finished.stderr
