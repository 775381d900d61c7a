"""The Python client as a package: its README, and what it needs."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.clients.conftest import Service
from tests.clients.examples import GUIDE, ROOT, blocks


CLIENT = ROOT / "clients" / "python"
SOURCE = CLIENT / "src"

# What the examples leave to the reader.
_CALLS = 'print(receive(b"{}", {}))'


def _run(source: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-"],
        input=source,
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_readme(service: Service, tmp_path: Path) -> None:
    """Its examples pay, and read the events."""
    examples = "".join(blocks(CLIENT / "README.md", "python"))
    finished = _run(examples + _CALLS, service.environ)
    lines = finished.stdout.splitlines()

    assert finished.returncode == 0, finished.stderr
    assert re.fullmatch("confirmed 0x[0-9a-f]{64}", lines[0])
    assert lines[1] == "TUSD local"
    assert re.fullmatch("rf_[0-9a-f]{32} confirmed", lines[2])
    assert lines[3].startswith("refund.accepted ")
    assert lines[-1] == "400"


def test_an_error_ends_the_example(service: Service) -> None:
    """With what to do."""
    source = blocks(CLIENT / "README.md", "python")[0].replace("12.50", "1000000")
    finished = _run(source, service.environ)

    assert finished.returncode == 1
    assert finished.stderr.startswith("refused: policy-violation. Correct the request")


def test_the_guide_shows_the_same() -> None:
    example = blocks(CLIENT / "README.md", "python")[0]

    assert blocks(GUIDE, "python") == [example]


def test_it_needs_nothing_of_the_service() -> None:
    """It imports what its pyproject.toml names, and nothing else."""
    with (CLIENT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    named = {re.split("[>=]", each)[0] for each in project["dependencies"]}
    text = "".join(
        path.read_text(encoding="utf-8")
        for path in (SOURCE / "hotwallet_client").glob("*.py")
    )
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))

    assert named == imported - sys.stdlib_module_names - {"hotwallet_client"}


@pytest.mark.parametrize("name", ["README.md", "src/hotwallet_client/py.typed"])
def test_the_package_is_complete(name: str) -> None:
    assert (CLIENT / name).exists()
