"""However it is started, the service refuses what is unsafe with status 78."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev.stack import Stack


SERVE = ("-m", "api.cli", "serve")
WORKER = ("-m", "api.cli", "worker", "--once")
GUARD = ("-m", "api.cli", "guard")
GUNICORN = (
    "-m",
    "gunicorn",
    "-c",
    "python:api.server.gunicorn_conf",
    "api.server.entrypoint:get_app()",
)

COMMANDS = pytest.mark.parametrize(
    "command",
    [SERVE, GUNICORN, WORKER, GUARD],
    ids=["serve", "gunicorn", "worker", "guard"],
)


def _run(
    command: tuple[str, ...], environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _codes(finished: subprocess.CompletedProcess[str]) -> set[str]:
    lines = [
        line for line in finished.stderr.splitlines() if line.startswith("refused: ")
    ]
    return {line.split(": ")[1] for line in lines}


@COMMANDS
def test_an_unset_environment_is_production(
    stack: Stack, command: tuple[str, ...]
) -> None:
    """However the service is started, without APP_ENV it wants KMS, or status 78."""
    environ = {name: stack.environ[name] for name in stack.environ if name != "APP_ENV"}

    finished = _run(command, environ)

    assert finished.returncode == 78
    assert "kms-not-configured" in _codes(finished)


@pytest.mark.parametrize("name", ["", "prod", "Production", "dev", "TEST2"])
def test_an_unknown_environment_is_production(stack: Stack, name: str) -> None:
    """Whatever APP_ENV is not known to be harmless is production."""
    finished = _run(GUARD, stack.environ | {"APP_ENV": name})

    assert finished.returncode == 78
    assert "kms-not-configured" in _codes(finished)


def test_names_every_problem_at_once(stack: Stack, tmp_path: Path) -> None:
    """Each mistake is a line, whichever part of the guard finds it."""
    finished = _run(
        GUARD,
        stack.environ
        | {
            "APP_ENV": " PRODUCTION ",
            "USE_KMS": "TRUE",
            "KMS_KEY_ID": "alias/refunds",
            "AWS_REGION": "eu-central-1",
            "PKCS11_MODULE": "/usr/lib/softhsm/libsofthsm2.so",
            "SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf"),
            "AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:1",
            "DEBUG": "true",
            "NODE_COUNT": "2",
            "JWT_ALGORITHM": "HS256",
            "MERCHANT_WALLET_PRIVATE_KEY": "0x" + "5a" * 32,
        },
    )

    assert finished.returncode == 78
    assert {
        "raw-key-forbidden",
        "softhsm-module-forbidden",
        "softhsm-config-forbidden",
        "kms-endpoint-forbidden",
        "audit-key-missing",
        "debug-forbidden",
        "sqlite-multi-node",
        "jwt-key-invalid",
        "jwt-shared-secret",
        "jwt-signing-key-forbidden",
        "rpc-insecure",
    } == _codes(finished)
    assert "5a5a" not in finished.stdout + finished.stderr


def test_refuses_the_wrong_chain(stack: Stack, tmp_path: Path) -> None:
    """A node of another chain than configured is no place to send money."""
    good = (stack.home / "networks.toml").read_text(encoding="utf-8")
    wrong = tmp_path / "networks.toml"
    wrong.write_text(good.replace("chain_id = 31337", "chain_id = 1"), encoding="utf-8")

    finished = _run(GUARD, stack.environ | {"NETWORKS_FILE": str(wrong)})

    assert finished.returncode == 78
    assert {"chain-misconfigured"} == _codes(finished)


def test_refuses_another_address(stack: Stack) -> None:
    """An address that none of the ledger's keys has is not ours."""
    finished = _run(GUARD, stack.environ | {"WALLET_ADDRESS": "0x" + "11" * 20})

    assert finished.returncode == 78
    assert {"key-not-in-ring"} == _codes(finished)


def test_warns_in_development(stack: Stack) -> None:
    """A SoftHSM token is fine on a laptop, and said to be unfit for anything else."""
    finished = _run(GUARD, stack.environ)

    assert finished.returncode == 0
    assert "NOT SAFE FOR PRODUCTION" in finished.stderr
