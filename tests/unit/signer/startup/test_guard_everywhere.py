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
        "-m",
        "gunicorn",
        "-c",
        "python:api.server.gunicorn_conf",
        "api.server.entrypoint:get_app()",
    ),
    "worker": ("-m", "api.cli", "worker"),
    "guard": ("-m", "api.cli", "guard"),
}

EXAMPLE = ROOT / "docker" / "networks.example.toml"

# P15 of the catalogue, and what else production refuses: spelt as carelessly as people
# spell.  "prod" is no word that makes a process harmless.
SEVEN = {
    "APP_ENV": "prod",
    "USE_KMS": " TRUE ",
    "KMS_KEY_ID": "alias/refunds",
    "AWS_REGION": "eu-central-1",
    "PKCS11_MODULE": "/canary/libsofthsm2.so",
    "SOFTHSM2_CONF": "/canary/softhsm2.conf",
    "AWS_ENDPOINT_URL_KMS": "http://canary.example",
    "DEBUG": "True",
    "NODE_COUNT": "2",
    "JWT_ALGORITHM": "HS256",
    "JWT_SECRET": "canary-" + "x" * 40,
    "AUDIT_SIGNING_KEY_FILE": "/canary/audit.pem",
}
REFUSED_SEVEN = {
    "softhsm-module-forbidden",
    "softhsm-config-forbidden",
    "kms-endpoint-forbidden",
    "debug-forbidden",
    "sqlite-multi-node",
    "jwt-shared-secret",
    "rpc-insecure",
}

# What each environment is refused for, by all four commands.
CASES = {
    "the seven": (SEVEN, REFUSED_SEVEN),
    "nothing set": ({}, {"kms-not-configured", "audit-key-missing"}),
    "a raw key, blank names": (
        {
            "APP_ENV": "  ",
            "USE_KMS": "",
            "merchant_wallet_private_key": "canary",
            "ALERT_WEBHOOK_URL": "HTTP://canary.example/T0KEN",
        },
        {
            "kms-not-configured",
            "raw-key-forbidden",
            "audit-key-missing",
            "webhook-insecure",
        },
    ),
    "a word for DEBUG": ({"APP_ENV": "test", "DEBUG": "canary"}, {"settings-invalid"}),
}


def _started(
    command: str, environ: dict[str, str], home: Path
) -> subprocess.CompletedProcess[str]:
    networks = home / "networks.toml"
    text = EXAMPLE.read_text(encoding="utf-8")
    networks.write_text(text.replace("https://", "http://"), encoding="utf-8")
    return subprocess.run(
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


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", CASES)
def test_unsafe_configuration_does_not_start(
    case: str, command: str, tmp_path: Path
) -> None:
    """Status 78 and one line per refusal, without values and without a traceback."""
    environ, expected = CASES[case]

    finished = _started(command, environ, tmp_path)

    lines = finished.stderr.splitlines()
    refused = [line.split(": ") for line in lines if line.startswith("refused: ")]
    assert finished.returncode == 78
    assert expected <= {code for _, code, *_ in refused}
    assert len(refused) == len(lines)
    assert "canary" not in finished.stderr + finished.stdout
    assert "Traceback" not in finished.stderr + finished.stdout
    assert "Booting worker" not in finished.stdout


def test_all_commands_report_the_same_refusals(tmp_path: Path) -> None:
    """A configuration that one command refuses is refused by every other."""
    environ = SEVEN | {"BIND": "0.0.0.0:0", "TRUSTED_PROXIES": ""}
    serving = [
        _started(command, environ, tmp_path).stderr
        for command in ("serve", "gunicorn", "guard")
    ]

    assert len(set(serving)) == 1
    assert "refused: proxy-missing: " in serving[0]
