"""A valid environment in which every secret is a canary."""

import json
import os
from pathlib import Path

from tests.e2e.canaries import value
from tests.e2e.leaking_server import LeakingServer


_TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"

_OPEN = ("open-pin",)


def secret_environ(
    home: Path, server: LeakingServer, token: str = _TOKEN
) -> dict[str, str]:
    """Return the environment, and write its files."""
    home.mkdir(mode=0o700, exist_ok=True)
    files = {
        "networks.toml": _networks(server.netloc, token),
        "audit.pem": value("audit-signing-key"),
        "garbage.pem": value("audit-garbage-key"),
        "jwt.pem": value("jwt-signing-key"),
        "open-pin": value("pkcs11-pin-file"),
        "softhsm/pin": value("pkcs11-pin"),
        "softhsm/so-pin": value("pkcs11-so-pin"),
    }
    (home / "softhsm").mkdir(mode=0o700, exist_ok=True)
    for name, content in files.items():
        (home / name).write_text(content, encoding="utf-8")
        (home / name).chmod(0o644 if name in _OPEN else 0o600)
    kept = ("PATH", "LANG", "PKCS11_MODULE")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "APP_ENV": "development",
        "HOTWALLET_HOME": str(home),
        "NETWORKS_FILE": str(home / "networks.toml"),
        "PKCS11_KEY_ID": value("cka-id"),
        "JWT_ALGORITHM": "HS256",
        "JWT_SECRET": value("jwt-hmac-secret"),
        "JWT_SIGNING_KEY_FILE": str(home / "jwt.pem"),
        "AUDIT_SIGNING_KEY_FILE": str(home / "audit.pem"),
        "ALERT_WEBHOOK_URL": (
            f"http://{server.netloc}{value('webhook-path-token')}"
            f"{value('webhook-query-token')}"
        ),
        "MERCHANT_WALLET_PRIVATE_KEY": value("raw-key"),
        "AWS_ACCESS_KEY_ID": value("aws-access-key"),
        "AWS_SECRET_ACCESS_KEY": value("aws-secret-key"),
        "AWS_SESSION_TOKEN": value("aws-session-token"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "KMS_MAX_RETRIES": "1",
        "KMS_TIMEOUT_MS": "900",
        "NO_PROXY": "127.0.0.1",
    }


def with_key_set(environ: dict[str, str], server: LeakingServer) -> dict[str, str]:
    """Return *environ* with an issuer's URL in place of a shared secret."""
    return environ | {
        "JWT_ALGORITHM": "ES256",
        "JWT_SECRET": "",
        "JWT_JWKS_URL": f"http://{server.netloc}{value('jwks-url-key')}",
    }


def _networks(netloc: str, token: str) -> str:
    login = f"{value('rpc-user')}:{value('rpc-password')}@"
    urls = [
        f"http://{login}{netloc}{value('rpc-path-key')}",
        f"http://{netloc}{value('rpc-query-key')}",
    ]
    return f"""\
[networks.local]
chain_id = 31337
rpc_urls = {json.dumps(urls)}
rpc_timeout_ms = 500

[networks.local.tokens.TUSD]
address = "{token}"
decimals = 6
max_amount = "1000"
"""
