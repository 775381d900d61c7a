"""The local chain starts, stops, and leaves no process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dev.anvil import ROOT, find_anvil
from dev.chain import CHAIN_ID, LocalChain
from dev.rpc import RPC
from tests.fixtures.chain import DevChain
from tests.support.programs import program
from tests.support.waiting import eventually


KEEPER = """
import signal
from dev.anvil import ROOT, find_anvil
from dev.chain import LocalChain

chain = LocalChain(find_anvil(ROOT)).start()
print(chain.pid, chain.url, flush=True)
signal.pause()
"""


@pytest.fixture
def binary(anvil: DevChain) -> Path:
    """The path of anvil."""
    found = find_anvil(ROOT)
    assert found is not None
    return found


def answers(url: str) -> bool:
    """Return whether a node answers at *url*."""
    try:
        return bool(RPC(url, timeout=2)("eth_chainId") == hex(CHAIN_ID))
    except OSError:
        return False


@pytest.mark.parametrize("engine", ["anvil", "eth-tester"])
def test_a_block_time_mines_empty_blocks(
    engine: str, binary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A warning is printed if eth-tester replaces anvil."""
    with LocalChain(binary if engine == "anvil" else None, block_time=1) as chain:
        rpc = RPC(chain.url)

        assert chain.engine == engine
        assert eventually(lambda: int(rpc("eth_blockNumber"), 16) > 0)

    assert not answers(chain.url)
    assert ("eth-tester" in capfd.readouterr().err) is (engine == "eth-tester")


def test_a_used_port_is_an_error(anvil: DevChain, binary: Path) -> None:
    """The running node continues."""
    port = int(anvil.url.rpartition(":")[2])

    with pytest.raises(OSError, match="in use"):
        LocalChain(binary, port=port).start()

    assert answers(anvil.url)


def test_the_error_of_a_node_that_ends_has_its_output(tmp_path: Path) -> None:
    broken = program(tmp_path / "anvil", "echo no genesis today >&2; exit 3")

    with pytest.raises(RuntimeError, match="no genesis today"):
        LocalChain(broken).start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PDEATHSIG")
def test_kill_9_leaves_no_orphan(binary: Path) -> None:
    """If the process that started a chain is killed, the chain ends."""
    with subprocess.Popen(
        [sys.executable, "-c", KEEPER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as keeper:
        assert keeper.stdout is not None
        pid, url = keeper.stdout.readline().split()
        alive = answers(url)
        keeper.kill()

    assert alive
    assert eventually(lambda: not answers(url))
    assert int(pid) != keeper.pid


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_command_runs_until_a_signal(
    binary: Path, tmp_path: Path, end: signal.Signals
) -> None:
    """``python -m dev.chain`` writes its URL to a file, and leaves no process."""
    ready = tmp_path / "chain.url"
    with LocalChain(binary) as probe:
        port = probe.port  # Free, once the probe is gone.
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "dev.chain"),
            *("--port", str(port), "--ready-file", ready, "--die-with-parent"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"ANVIL": str(binary)},
    ) as command:
        announced = eventually(ready.exists, 30)
        url = ready.read_text().strip()
        alive = answers(url)
        command.send_signal(end)
        said, _ = command.communicate(timeout=20)

    assert announced
    assert alive
    assert said.startswith("anvil on http://127.0.0.1:")
    assert command.returncode == 0
    assert not answers(url)
