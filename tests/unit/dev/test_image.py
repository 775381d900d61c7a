"""``make image`` refuses an image that is not as docs/how-to/deploy.md promises."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dev.image.__main__ import GUIDE
from dev.image.checks import UID, problems, size_problems


CONFIGURATION: Any = {
    "config": {
        "User": "hotwallet",
        "Cmd": ["hotwallet", "up"],
        "Healthcheck": {"Test": ["CMD", "hotwallet", "health"]},
        "Env": ["PATH=/opt/hotwallet/bin:/usr/bin", "BIND=0.0.0.0:8080"],
    }
}

_PACKAGES = "opt/hotwallet/lib/python3.13/site-packages"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files of an image without a problem."""
    for folder in ("tmp", "usr/bin", "var/lib/hotwallet", "etc", "root"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "usr/bin/python3").write_text("")
    for name in ("hotwallet",):
        cache = tmp_path / _PACKAGES / name / "__pycache__"
        cache.mkdir(parents=True)
        (cache.parent / "__init__.py").write_text("")
        (cache / "__init__.cpython-313.pyc").write_text("")
    return tmp_path


def _make(path: str, text: str = "", mode: int = 0o644) -> Callable[[Path], None]:
    def make(tree: Path) -> None:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
        (tree / path).chmod(mode)

    return make


def _remove_hotwallet(tree: Path) -> None:
    shutil.rmtree(tree / _PACKAGES / "hotwallet")


_KEY = f"-----BEGIN PRIVATE KEY-----\n{'A' * 64}\n-----END PRIVATE KEY-----\n"

PLANTED = {
    "usr/bin/su is setuid or setgid": _make("usr/bin/su", mode=0o4755),
    "usr/bin/wall is setuid or setgid": _make("usr/bin/wall", mode=0o2755),
    "etc/all is writable by all": _make("etc/all", mode=0o666),
    "usr/bin/gcc is a tool of builds": _make("usr/bin/gcc"),
    "usr/bin/x86_64-linux-gnu-gcc-14 is a tool of builds": _make(
        "usr/bin/x86_64-linux-gnu-gcc-14"
    ),
    "opt/hotwallet/bin/uv is a tool of builds": _make("opt/hotwallet/bin/uv"),
    "root/mac.key has the name of a secret": _make("root/mac.key"),
    "etc/worker.env has the name of a secret": _make("etc/worker.env"),
    "root/notes has a private key": _make("root/notes", _KEY),
    "tests is installed": _make(f"{_PACKAGES}/tests/__init__.py"),
    "pip is installed": _make(f"{_PACKAGES}/pip/__init__.py"),
    "hotwallet is missing": _remove_hotwallet,
    f"{_PACKAGES}/hotwallet/new.py is not compiled": _make(
        f"{_PACKAGES}/hotwallet/new.py"
    ),
}


@pytest.mark.parametrize("problem", PLANTED)
def test_each_planted_problem_is_found(tree: Path, problem: str) -> None:
    """And nothing else."""
    assert problems(tree, CONFIGURATION) == []
    PLANTED[problem](tree)

    assert problems(tree, CONFIGURATION) == [problem]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_a_file_of_the_user_is_found(tree: Path) -> None:
    """Its home belongs to it."""
    os.chown(tree / "etc", UID, 0)
    os.chown(tree / "var/lib/hotwallet", UID, UID)

    assert problems(tree, CONFIGURATION) == ["etc belongs to the user"]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"User": "root"}, "the user is 'root'"),
        ({"Cmd": ["sh"]}, "the command is ['sh']"),
        ({"Healthcheck": None}, "the health check is None"),
        ({"Env": ["MAC_KEY=1"]}, "the environment has MAC_KEY"),
        ({"Env": ["PIP_INDEX_URL=x"]}, "the environment has PIP_INDEX_URL"),
    ],
)
def test_each_wrong_configuration_is_found(
    tree: Path, changed: dict[str, object], problem: str
) -> None:
    config = {"config": {**CONFIGURATION["config"], **changed}}

    assert problems(tree, config) == [problem]


def test_the_size_is_that_of_the_guide() -> None:
    """Another set of packages changes it a little."""
    guide = GUIDE.read_text(encoding="utf-8")
    stated = float(guide.partition("         size           ")[2].split(" MB")[0])

    assert [*size_problems(stated * 1.09, guide)] == []
    assert [*size_problems(stated * 0.91, guide)] == []
    for other in (stated * 1.11, stated * 0.89):
        (problem,) = size_problems(other, guide)
        assert problem.startswith(f"{other:.0f} MB")
