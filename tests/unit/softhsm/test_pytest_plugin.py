"""The pytest plugin, in the test suite of another project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from signer.errors import ConfigurationError
from softhsm.account import make_token
from tests.support.programs import ROOT


GUIDE = ROOT / "docs" / "how-to" / "test-with-hsm.md"

_HIDE_PKCS11 = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "pkcs11":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Hide())
"""

_BEFORE_A_FIXTURE = """
import sys

def test_no_fixture():
    heavy = {"signer", "backends", "pkcs11", "pydantic", "eth_account", "cedarpy"}
    assert "softhsm.pytest_plugin" in sys.modules
    assert heavy.isdisjoint(sys.modules)
"""

_USES_IT = """
def test_uses_it(hsm_account):
    assert hsm_account.address
"""

_KEYS = """
import os

import pytest

seen = set()

@pytest.mark.parametrize("number", [1, 2])
def test_key(hsm_account, number):
    assert os.environ["SOFTHSM2_CONF"] != "/mine"
    seen.add(hsm_account.address)
    assert len(seen) == number
"""

_SHOW_CONF = """
import os

def pytest_sessionfinish():
    print("conf:", os.environ["SOFTHSM2_CONF"])
"""

# Plugins of this project's environment that take long to import.
_SLOW = ("schemathesis", "hypothesispytest", "xdist", "xdist.looponfail", "pytest_cov")


def _pytest(folder: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run pytest in *folder*, which loads the plugin by its entry point."""
    options = [f"-pno:{name}" for name in ("cacheprovider", *_SLOW)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-qs", *options],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_guide_runs_as_written(softhsm_module: Path, tmp_path: Path) -> None:
    """
    The tests of the guide pass, and each test has a key of its own.

    The user's own token is pointed to again after the session, and no file is left in
    the user's folder.
    """
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "test_guide.py").write_text("\n".join(blocks), encoding="utf-8")
    (tmp_path / "test_keys.py").write_text(_KEYS, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(_SHOW_CONF, encoding="utf-8")

    ran = _pytest(tmp_path, PKCS11_MODULE=str(softhsm_module), SOFTHSM2_CONF="/mine")

    assert ran.returncode == 0, ran.stdout
    assert "6 passed" in ran.stdout
    assert "conf: /mine" in ran.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {
        *("test_guide.py", "test_keys.py", "conftest.py", "__pycache__")
    }


@pytest.mark.parametrize(
    ("conftest", "module", "message"),
    [
        ("", "/nowhere/libsofthsm2.so", "there is no HSM for the tests: "),
        (_HIDE_PKCS11, "", "pkcs11 is not installed; run: pip install 'hotwallet"),
    ],
    ids=["no module", "no python-pkcs11"],
)
def test_what_is_missing_is_said(
    tmp_path: Path, conftest: str, module: str, message: str
) -> None:
    """
    Only the tests that use a fixture fail, each with one line and no traceback.

    Nothing is imported before: every project with hotwallet installed loads the plugin
    at each start of pytest.
    """
    (tmp_path / "conftest.py").write_text(conftest, encoding="utf-8")
    (tmp_path / "test_it.py").write_text(_BEFORE_A_FIXTURE + _USES_IT, encoding="utf-8")

    ran = _pytest(tmp_path, PKCS11_MODULE=module)

    assert "1 passed, 1 error" in ran.stdout
    assert message in ran.stdout
    assert "Traceback" not in ran.stdout


def test_a_missing_softhsm_is_said_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the command of this system."""
    monkeypatch.delenv("PKCS11_MODULE", raising=False)
    token = make_token(tmp_path, places=())

    with pytest.raises(ConfigurationError, match=r"not installed; (run|install)"):
        token.__enter__()
