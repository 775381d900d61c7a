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
    "sqlalchemy": "sqlalchemy",
    "urllib3": "urllib3",
    "web3": "web3",
}
"""The module that each requirement of an extra installs."""

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


def test_the_core_imports_no_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    names = {Requirement(line).name for lines in extras for line in lines}

    assert names == MODULES.keys()
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
