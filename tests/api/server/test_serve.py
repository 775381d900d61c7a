"""``hotwallet serve`` as an operator runs it, up to the guard's refusal."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.forked_processes import run_command


SERVE = [str(Path(sys.executable).with_name("hotwallet")), "serve"]

# Importing such a module prints a message and ends the process.
PLANTED = "import sys; sys.stderr.write('planted module imported'); sys.exit(99)\n"


def _serve(
    environ: Mapping[str, str], folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SERVE, *options],
        cwd=folder,
        env={"APP_ENV": "test", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_nothing_is_imported_from_the_working_directory(tmp_path: Path) -> None:
    """gunicorn and the guard import the installed packages, not those files."""
    for name in ("structlog.py", "falcon.py", "api/__init__.py", "signer/__init__.py"):
        planted = tmp_path / name
        planted.parent.mkdir(exist_ok=True)
        planted.write_text(PLANTED)

    served = _serve({"NETWORKS_FILE": str(tmp_path / "missing.toml")}, tmp_path)

    # The refusal is the guard's, so its process has started too.
    assert "planted" not in served.stderr + served.stdout
    assert "refused: networks-misconfigured" in served.stderr
    assert served.returncode == 78


def _refused(*options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    given = {"APP_ENV": "test", "PATH": os.environ["PATH"], **environ}
    return run_command(["serve", *options], {**given, "HOTWALLET_NO_ENV_FILE": "1"})


@pytest.mark.parametrize("bind", ["127.0.0.1:99999", "::1"])
def test_an_unusable_listen_address_is_refused(bind: str) -> None:
    """One line and status 78 before the guard opens anything, and no traceback."""
    served = _refused(BIND=bind)

    assert served.stderr.startswith("refused: settings-invalid: BIND: ")
    assert "HOST:PORT" in served.stderr
    assert len(served.stderr.splitlines()) == 1
    assert served.returncode == 78


@pytest.mark.parametrize(
    ("options", "environ", "accepts_refunds"),
    [
        (["--role", "refunds"], {}, True),
        (["--role", "refunds"], {"SERVE_ROLE": "all"}, True),
        ([], {"SERVE_ROLE": "refunds"}, True),
        (["--role", "admin"], {"SERVE_ROLE": "refunds"}, False),
    ],
)
def test_the_option_is_the_setting(
    options: list[str], environ: dict[str, str], *, accepts_refunds: bool
) -> None:
    """``--role`` replaces ``SERVE_ROLE``; only that for refunds has no credentials."""
    given = {"AWS_PROFILE": "canary", "NETWORKS_FILE": "missing.toml"}
    served = _refused(*options, **environ, **given)

    assert served.returncode == 78
    assert "networks-misconfigured" in served.stderr
    assert ("refused: role-has-credentials: " in served.stderr) == accepts_refunds
    assert ("AWS_PROFILE" in served.stderr) == accepts_refunds
    assert "canary" not in served.stderr


def test_an_unknown_role_is_a_usage_error() -> None:
    served = _refused("--role", "worker")

    assert served.returncode == 2
    assert "'all', 'refunds', 'admin'" in served.stderr
