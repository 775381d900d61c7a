"""The signer as a library: what it imports, and how little a signature takes."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from eth_account.messages import encode_defunct
from packaging.requirements import Requirement

from signer.account import HSMAccount


ROOT = Path(__file__).parents[3]

MODULES = {
    "alembic": "alembic",
    "apsw": "apsw",
    "asn1crypto": "asn1crypto",
    "boto3": "boto3",
    "click": "click",
    "falcon": "falcon",
    "google-auth": "google",
    "google-crc32c": "google_crc32c",
    "gunicorn": "gunicorn",
    "jinja2": "jinja2",
    "markdown-it-py": "markdown_it",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
    "opentelemetry-sdk": "opentelemetry",
    "prometheus-client": "prometheus_client",
    "psycopg": "psycopg",
    "pyjwt": "jwt",
    "pytest": "pytest",
    "python-dotenv": "dotenv",
    "python-pkcs11": "pkcs11",
    "requests": "requests",
    "segno": "segno",
    "setproctitle": "setproctitle",
    "sigstore": "sigstore",
    "sqlalchemy": "sqlalchemy",
    "urllib3": "urllib3",
    "web3": "web3",
}
"""The module that each of these requirements installs."""

_IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} belongs to an extra")

sys.meta_path.insert(0, Refuse())
import signer
for module in pkgutil.walk_packages(signer.__path__, "signer."):
    importlib.import_module(module.name)
"""


# What the core has for the service, besides what an account and an auditor need.
CORE = {"hotwallet", "http-message-signatures", "http-sf", "safe-pysha3", "structlog"}


def test_the_core_imports_no_library_of_a_surface() -> None:
    """Web, SQL, devices and tests have libraries of their own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = {
        name: {Requirement(line).name for line in lines}
        for name, lines in project["project"]["optional-dependencies"].items()
    }
    shared = extras["account"] | extras["audit"] - {"click"} | CORE

    assert set().union(*extras.values()) - shared == MODULES.keys()
    program = f"FORBIDDEN = {set(MODULES.values())}\n{_IMPORT_EVERYTHING}"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("backend", ["softhsm", "kms"])
def test_a_first_signature(backend: str, request: pytest.FixtureRequest) -> None:
    """An account needs a backend and a key id: no networks file, ledger or node."""
    account = HSMAccount.open(
        request.getfixturevalue(backend), request.getfixturevalue(f"{backend}_key")
    )
    signed = account.sign_message(encode_defunct(text="hello"))

    assert len(signed.signature) == 65
