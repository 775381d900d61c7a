"""The container image is built from what has a hash."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement


ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"

_PINNED = re.compile(r"^(?P<name>[a-z0-9.-]+)(\[[a-z,]+\])?==(?P<version>[^ ;]+)")


def _commands() -> Iterator[list[str]]:
    """Yield the shell commands of the Dockerfile."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("RUN "):
            yield from (part.split() for part in line[4:].split("&&"))


def _locked(name: str) -> dict[str, str]:
    """Return the versions in a file of requirements, each of which has a hash."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    locked = {}
    for entry in text.replace("\\\n", " ").splitlines():
        if found := _PINNED.match(entry):
            assert "--hash=sha256:" in entry, entry
            locked[found["name"]] = found["version"]
        else:
            assert not entry.strip() or entry.lstrip().startswith("#"), entry
    return locked


def test_everything_that_is_downloaded_has_a_hash() -> None:
    """An installer checks hashes, or it may not download at all."""
    installers = [
        command
        for command in _commands()
        if {"install", "sync", "wheel", "download"} & set(command)
    ]

    assert len(installers) == 4
    for command in installers:
        is_offline = {"--no-index", "--offline"} & set(command)
        assert "--require-hashes" in command or (is_offline and "--no-deps" in command)
        if "wheel" in command:
            assert "--no-build-isolation" in command


def test_nothing_else_is_downloaded() -> None:
    """Also no frontend of another version, which a comment would select."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")

    assert not re.search(
        r"^# *syntax|^ADD|curl|wget|apt-get|http(?!://127)", text, re.MULTILINE
    )


def test_the_build_backend_is_locked() -> None:
    """With the versions of the development environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [Requirement(each) for each in project["build-system"]["requires"]]
    build, dev = _locked("build.txt"), _locked("dev.txt")

    for each in needed:
        assert each.specifier.contains(build[each.name])
    assert build.items() <= dev.items()


@pytest.mark.parametrize("name", ["uv.txt", "runtime.txt"])
def test_every_requirement_has_a_hash(name: str) -> None:
    assert _locked(name)


_DOCKER = """#!/bin/sh
test "$1 $2 $3" = "buildx imagetools inspect" || exit 1
test "$4" != "$FAILS" || { echo "<no value>"; exit 0; }
printf 'sha256:%s\\n' "$(printf %s "$4$SALT" | sha256sum | cut -d' ' -f1)"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the folder, and a ``docker`` that resolves each image to a digest."""
    folder = tmp_path / "docker"
    folder.mkdir()
    for name in ("Dockerfile", "compose.yaml", "pin-images"):
        shutil.copy(DOCKER / name, folder)
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(_DOCKER)
    program.chmod(0o755)
    return folder


def _pin(checkout: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout.parent / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        [checkout / "pin-images"],
        env={"PATH": path, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def _images(checkout: Path) -> list[str]:
    found = []
    for name in ("Dockerfile", "compose.yaml"):
        text = (checkout / name).read_text(encoding="utf-8")
        found += re.findall(r"^(?:FROM|\s+image:) +(\S+)", text, re.MULTILINE)
    return found


def test_images_are_pinned_by_their_digests(checkout: Path) -> None:
    """Each image gets its digest, keeps its tag, and is pinned anew the next time."""
    before = _images(checkout)
    first = _pin(checkout)
    pinned = _images(checkout)
    second = _pin(checkout, SALT="later")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert [each.split("@")[0] for each in pinned] == before
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", each) for each in pinned)
    assert sorted(first.stdout.split()) == sorted(set(pinned))
    assert set(pinned).isdisjoint(_images(checkout))
    assert [each.split("@")[0] for each in _images(checkout)] == before
    assert " AS build\n" in (checkout / "Dockerfile").read_text(encoding="utf-8")


def test_an_image_without_a_digest_changes_nothing(checkout: Path) -> None:
    """Neither its own line nor those of the images before it."""
    before = _images(checkout)
    failed = _pin(checkout, FAILS="python:3.13-slim")

    assert failed.returncode == 1
    assert "no digest of" in failed.stderr
    assert _images(checkout) == before
