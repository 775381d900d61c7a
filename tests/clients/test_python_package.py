"""The Python client as a package: its README, and what it needs."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from dev.dist import build_client
from tests.clients.conftest import Service
from tests.clients.examples import GUIDE, ROOT, blocks


CLIENT = ROOT / "clients" / "python"
SOURCE = CLIENT / "src"
MODULES = {
    f"hotwallet_client/{path.name}"
    for path in (SOURCE / "hotwallet_client").iterdir()
    if path.is_file()
}

# What the examples leave to the reader.
_CALLS = 'print(receive(b"{}", {}))'


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build_client(tmp_path_factory.mktemp("packages"))


def _run(source: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-"],
        input=source,
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_readme(service: Service, packages: tuple[Path, Path]) -> None:
    """Its examples pay, and read the events, with what the wheel has."""
    examples = "".join(blocks(CLIENT / "README.md", "python"))
    environ = {**service.environ, "PYTHONPATH": str(packages[0])}
    finished = _run(examples + _CALLS, environ)
    lines = finished.stdout.splitlines()

    assert finished.returncode == 0, finished.stderr
    assert re.fullmatch("confirmed 0x[0-9a-f]{64}", lines[0])
    assert lines[1] == "TUSD local"
    assert re.fullmatch("rf_[0-9a-f]{32} confirmed", lines[2])
    assert lines[3].startswith("refund.accepted ")
    assert lines[-1] == "400"


def test_an_error_ends_the_example(service: Service) -> None:
    """With what to do."""
    source = blocks(CLIENT / "README.md", "python")[0].replace("12.50", "1000000")
    finished = _run(source, service.environ)

    assert finished.returncode == 1
    assert finished.stderr.startswith("refused: policy-violation. Correct the request")


def test_the_guide_shows_the_same() -> None:
    example = blocks(CLIENT / "README.md", "python")[0]

    assert blocks(GUIDE, "python") == [example]


def test_it_needs_nothing_of_the_service() -> None:
    """It imports what its pyproject.toml names, and nothing else."""
    with (CLIENT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    named = {re.split("[>=]", each)[0] for each in project["dependencies"]}
    text = "".join(
        path.read_text(encoding="utf-8")
        for path in (SOURCE / "hotwallet_client").glob("*.py")
    )
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))

    assert named == imported - sys.stdlib_module_names - {"hotwallet_client"}


def test_the_packages_are_complete(packages: tuple[Path, Path]) -> None:
    """They have the modules with their types, the licence and the pages."""
    wheel, archive = packages
    info = f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info"
    root = archive.name.removesuffix(".tar.gz")
    pages = ("CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml")

    assert "hotwallet_client/py.typed" in MODULES
    assert {*zipfile.ZipFile(wheel).namelist()} == MODULES | {
        f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")
    }
    with tarfile.open(archive) as tar:
        names = {*tar.getnames()}
    # hatchling always adds this file if there is one.
    assert names - {f"{root}/.gitignore"} == {
        *(f"{root}/src/{module}" for module in MODULES),
        *(f"{root}/{name}" for name in pages),
    }


def test_the_metadata_is_valid(packages: tuple[Path, Path]) -> None:
    """An index would accept it, and show the README."""
    text = zipfile.Path(packages[0]).joinpath(
        f"{packages[0].name.removesuffix('-py3-none-any.whl')}.dist-info", "METADATA"
    )
    metadata = Metadata.from_email(text.read_bytes(), validate=True)

    assert (metadata.license_expression, metadata.license_files) == (
        "Apache-2.0",
        ["LICENSE"],
    )
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (CLIENT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("client", ["python", "typescript"])
def test_the_pages_of_a_client_stand_alone(client: str) -> None:
    """Outside of the repository a relative link leads nowhere."""
    folder = ROOT / "clients" / client
    version = re.search(
        r'"?version"?(?: =|:) "(.*?)"',
        "".join(path.read_text() for path in folder.glob("p*.[tj]*")),
    )
    readme = (folder / "README.md").read_text(encoding="utf-8")

    assert re.findall(r"\]\((?!https:)[^)]*\)", readme) == []
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert version
    assert f"\n## {version[1]}" in (folder / "CHANGELOG.md").read_text()
