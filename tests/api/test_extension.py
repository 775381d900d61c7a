"""Extras add to the core what they declare; those of other packages must be named."""

from importlib import import_module
from pathlib import Path

import pytest

from api.extension import find_extras
from tests.support.programs import run_python


PROGRAM = (
    "import sys; sys.argv[0] = 'hotwallet'; from api.cli.__main__ import main; main()"
)

MODULE = """
import click
from api.extension import Extra

EXTRA = Extra(
    name="greeter",
    commands={
        "greet": ("greeter:greet", "Greet."),
        "refund greet": ("greeter:greet", "Greet refunds."),
        "stop": ("greeter:greet", "Not the kill switch."),
    },
)

@click.command()
def greet():
    click.echo("hello")
"""


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds an installed package with an extra."""
    (tmp_path / "greeter.py").write_text(MODULE)
    _claim(tmp_path, "greeter")
    return {"PYTHONPATH": str(tmp_path)}


def _claim(folder: Path, package: str) -> None:
    """Write what pip leaves of *package*, which has the extra ``greeter``."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[hotwallet.extras]\ngreeter = {package}:EXTRA\n"
    )


def test_a_named_package_adds_commands(installed: dict[str, str]) -> None:
    environ = {**installed, "HOTWALLET_EXTRAS": "greeter"}

    for arguments in (["greet"], ["refund", "greet"]):
        finished = run_python("-c", PROGRAM, *arguments, environ=environ)
        assert finished.stdout == "hello\n", finished.stderr


def test_an_installed_package_adds_nothing_by_itself(installed: dict[str, str]) -> None:
    finished = run_python("-c", PROGRAM, "greet", environ=installed)

    assert finished.returncode == 2
    assert "No such command" in finished.stderr


def test_an_extra_does_not_replace_a_command_of_the_core(
    installed: dict[str, str],
) -> None:
    environ = {**installed, "HOTWALLET_EXTRAS": "greeter"}
    finished = run_python("-c", PROGRAM, "stop", "--help", environ=environ)

    assert "kill switch" in finished.stdout
    assert "Not the kill switch" not in finished.stdout


@pytest.mark.parametrize("name", ["absent", "greeter"])
def test_an_extra_that_cannot_be_loaded_is_refused(tmp_path: Path, name: str) -> None:
    """Without a traceback, which could show a secret of the package."""
    (tmp_path / "greeter.py").write_text("raise RuntimeError('s3cret')")
    _claim(tmp_path, "greeter")
    environ = {"PYTHONPATH": str(tmp_path), "HOTWALLET_EXTRAS": name}
    finished = run_python("-c", PROGRAM, "--help", environ=environ)

    assert finished.returncode == 78
    assert finished.stderr.startswith("refused: backend-misconfigured: ")
    assert "s3cret" not in finished.stderr


def test_an_extra_that_two_packages_have_is_refused(tmp_path: Path) -> None:
    _claim(tmp_path, "greeter")
    _claim(tmp_path, "thief")
    environ = {"PYTHONPATH": str(tmp_path), "HOTWALLET_EXTRAS": "greeter"}
    finished = run_python("-c", PROGRAM, "--help", environ=environ)

    assert finished.returncode == 78
    assert "greeter, thief" in finished.stderr


def test_every_target_of_our_extras_exists() -> None:
    extras = find_extras()
    targets = [target for extra in extras for target, _ in extra.commands.values()]

    assert "doctor" in [extra.name for extra in extras]
    for target in targets:
        module, _, attribute = target.partition(":")
        assert hasattr(import_module(module), attribute)
