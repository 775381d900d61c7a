"""What is published, and committed, holds no keys and no operator's configuration."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]

PRIVATE = [
    ".env",
    ".hotwallet/softhsm/pin",
    "audit-2026.jsonl",
    "audit.jsonl",
    "audit.pem",
    "docker/.env",
    "docker/networks.toml",
    "docker/tenants.toml",
    "docker/owner.env",
    "docker/refunds.env",
    "keys/audit.pem",
    "keys/jwt",
    "networks.toml",
    "owner.env",
    "refunds.env",
    "worker.env",
    "admin.env",
    "signing/audit",
    "signer/audit.jsonl",
    "tenants.toml",
    "tls/server.key",
]

PUBLIC = [
    ".env.example",
    "docker/networks.example.toml",
    "docker/tenants.example.toml",
    "docker/refunds.env.example",
    "signer/keys/__init__.py",
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the project's build files, and an operator's files among them."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in (".gitignore", "LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in (*PRIVATE, *PUBLIC):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize("has_gitignore", [True, False])
def test_the_sdist(checkout: Path, tmp_path: Path, has_gitignore: bool) -> None:
    """The source distribution has the packages, and none of the operator's files."""
    if not has_gitignore:
        (checkout / ".gitignore").unlink()
    command = ["build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(
        [sys.executable, "-m", "hatchling", *command],
        cwd=checkout,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}

    assert names.issuperset(PUBLIC)
    assert names.isdisjoint(PRIVATE)


def test_git_ignores_private_files(checkout: Path) -> None:
    """``git add --all`` takes the project's files, and none of the operator's."""
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=checkout, check=True, timeout=60)
    listed = subprocess.run(
        ["git", "ls-files"], cwd=checkout, check=True, capture_output=True, timeout=60
    )
    names = set(listed.stdout.decode().split())

    assert names.issuperset(PUBLIC)
    assert names.isdisjoint(PRIVATE)
