"""``hotwallet serve`` as an operator runs it, up to the guard's refusal."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


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


@pytest.mark.parametrize("bind", ["127.0.0.1:99999", "::1"])
def test_an_unusable_listen_address_is_refused(tmp_path: Path, bind: str) -> None:
    """One line and status 78 before the guard opens anything, and no traceback."""
    served = _serve({"BIND": bind}, tmp_path)

    assert served.stderr.startswith("refused: settings-invalid: BIND: ")
    assert "HOST:PORT" in served.stderr
    assert len(served.stderr.splitlines()) == 1
    assert served.returncode == 78


@pytest.mark.parametrize(
    ("options", "environ"),
    [
        (["--role", "refunds"], {}),
        (["--role", "refunds"], {"SERVE_ROLE": "all"}),
        ([], {"SERVE_ROLE": "refunds"}),
    ],
)
def test_the_option_is_the_setting(
    tmp_path: Path, options: list[str], environ: dict[str, str]
) -> None:
    """``--role`` sets ``SERVE_ROLE`` for the guard too, and replaces it."""
    given = {**environ, "AWS_PROFILE": "canary", "NETWORKS_FILE": "missing.toml"}
    served = _serve(given, tmp_path, *options)

    assert served.returncode == 78
    assert "refused: role-has-credentials: " in served.stderr
    assert "AWS_PROFILE" in served.stderr
    assert "canary" not in served.stderr


def test_another_role_may_have_credentials(tmp_path: Path) -> None:
    environ = {
        "AWS_PROFILE": "canary",
        "NETWORKS_FILE": "missing.toml",
        "SERVE_ROLE": "refunds",
    }
    served = _serve(environ, tmp_path, "--role", "admin")

    assert served.returncode == 78
    assert "networks-misconfigured" in served.stderr
    assert "role-has-credentials" not in served.stderr


def test_an_unknown_role_is_a_usage_error(tmp_path: Path) -> None:
    served = _serve({}, tmp_path, "--role", "worker")

    assert served.returncode == 2
    assert "'all', 'refunds', 'admin'" in served.stderr
