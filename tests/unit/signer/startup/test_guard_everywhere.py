"""Every command refuses an unsafe configuration with exit status 78."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[4]

COMMANDS = {
    "serve": ("-m", "api.cli", "serve"),
    "gunicorn": (
        *("-m", "gunicorn", "-c", "python:api.server.gunicorn_conf"),
        "api.server.entrypoint:get_app()",
    ),
    "worker": ("-m", "api.cli", "worker"),
    "guard": ("-m", "api.cli", "guard"),
}

EXAMPLE = ROOT / "docker" / "networks.example.toml"

# P15, and what else production refuses.  "prod" is not a name of a safe environment.
ALL_UNSAFE = {
    "APP_ENV": "prod",
    "USE_KMS": " TRUE ",
    "KMS_KEY_ID": "arn:aws:kms:eu-central-1:111122223333:alias/refunds",
    "AWS_REGION": "eu-central-1",
    "PKCS11_MODULE": "/canary/libsofthsm2.so",
    "SOFTHSM2_CONF": "/canary/softhsm2.conf",
    "AWS_ENDPOINT_URL_KMS": "http://canary.example",
    "DEBUG": "True",
    "NODE_COUNT": "2",
    "JWT_ALGORITHM": "HS256",
    "JWT_SECRET": "canary-" + "x" * 40,
    "AUDIT_SIGNING_KEY_FILE": "/canary/audit.pem",
    "MAC_KEY_FILE": "/canary/mac.key",
    "BIND": "0.0.0.0:0",
    "TRUSTED_PROXIES": "",
}
ALL_REFUSED = {
    *("softhsm-module-forbidden", "softhsm-config-forbidden", "kms-endpoint-forbidden"),
    *("debug-forbidden", "sqlite-multi-node", "jwt-shared-secret", "tenants-missing"),
    *("rpc-insecure", "mac-key-invalid"),
}

# Settings that cannot be read fail on another path than unsafe ones.
INVALID = {"APP_ENV": "test", "DEBUG": "canary"}


def _refusals(command: str, environ: dict[str, str], home: Path) -> list[str]:
    """Return the refusals of *command*: one line each, without values (status 78)."""
    networks = home / "networks.toml"
    text = EXAMPLE.read_text(encoding="utf-8")
    networks.write_text(text.replace("https://rpc", "http://rpc"), encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, *COMMANDS[command]],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HOTWALLET_HOME": str(home),
            "NETWORKS_FILE": str(networks),
            "BIND": "127.0.0.1:0",
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = finished.stderr.splitlines()
    assert finished.returncode == 78
    assert all(line.startswith("refused: ") for line in lines)
    assert "canary" not in finished.stderr + finished.stdout
    assert "Traceback" not in finished.stderr + finished.stdout
    assert "Booting worker" not in finished.stdout
    return lines


def _codes(refusals: list[str]) -> set[str]:
    return {line.split(": ")[1] for line in refusals}


def test_every_command_reports_the_same_refusals(tmp_path: Path) -> None:
    """Only the worker, which opens no socket, needs no proxy."""
    found = {name: _refusals(name, ALL_UNSAFE, tmp_path) for name in COMMANDS}

    assert found["serve"] == found["gunicorn"] == found["guard"]
    assert _codes(found["serve"]) >= ALL_REFUSED | {"proxy-missing"}
    assert _codes(found["worker"]) >= ALL_REFUSED
    assert "proxy-missing" not in _codes(found["worker"])


@pytest.mark.parametrize("command", ["gunicorn", "guard"])
def test_every_command_refuses_invalid_settings(command: str, tmp_path: Path) -> None:
    """A word that is no boolean stops a command, and each worker of gunicorn."""
    assert _codes(_refusals(command, INVALID, tmp_path)) == {"settings-invalid"}
