"""The core alone starts and pays a refund: no extra, and one key backend."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.anvil import ROOT
from tests.e2e.dependencies import kms_service
from tests.e2e.gateway import Gateway
from tests.e2e.running_service import RunningService
from tests.fixtures.chain import DevChain


REMOVED = ("api/extras", "backends/google_cloud_kms", "backends/pkcs11")

METADATA = "Metadata-Version: 2.1\nName: hotwallet\nVersion: 0.1.0\n"
ENTRY_POINTS = "[hotwallet.backends]\naws-kms = backends.aws_kms.plugin:PLUGIN\n"


@dataclass(frozen=True)
class Core:
    """The code of the core, and the environment of a service that runs it."""

    root: Path
    environ: dict[str, str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the code without extras, as an installation of it would be."""
    root = tmp_path / "core"
    ignored = shutil.ignore_patterns("__pycache__")
    for package in ("signer", "backends", "api"):
        shutil.copytree(ROOT / package, root / package, ignore=ignored)
    for folder in REMOVED:
        shutil.rmtree(root / folder)
    # Otherwise the package of the checkout would be found.
    (root / "softhsm.py").write_text("raise ModuleNotFoundError('softhsm')")
    info = root / "hotwallet-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return root


@pytest.fixture
def core(
    tmp_path: Path, root: Path, local_chain: DevChain, aws_environment: None
) -> Iterator[Core]:
    with kms_service(tmp_path, local_chain) as (_, environ):
        yield Core(root, {**environ, "PYTHONPATH": str(root)})


def _run(core: Core, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *command],
        capture_output=True,
        check=False,
        env=core.environ,
        text=True,
    )


def test_the_core_pays_a_refund(core: Core) -> None:
    service = RunningService(core.environ, has_interpreters=True, root=core.root)
    with service:
        gateway = Gateway.at(f"http://127.0.0.1:{service.port}", core.environ)
        status, _, refund = gateway.post()
        assert status == 201, refund
        gateway.wait(refund["id"], "confirmed", 60)


def test_the_core_has_no_command_of_an_extra(core: Core) -> None:
    """It finds its own code, and lists what it has."""
    commands = _run(core, "-m", "api.cli", "--help").stdout
    where = _run(core, "-c", "import api; print(api.__path__[0])").stdout.strip()

    assert where == str(core.root / "api")
    assert "  worker " in commands
    for name in ("doctor", "reconcile", "restore", "softhsm"):
        assert f"  {name} " not in commands


def test_a_setting_of_a_missing_extra_is_refused(core: Core) -> None:
    core.environ["SCREENING_URL"] = "https://screening.example"
    refused = _run(core, "-m", "api.cli", "guard")

    assert refused.returncode == 78
    assert "SCREENING_URL needs a screening" in refused.stderr
