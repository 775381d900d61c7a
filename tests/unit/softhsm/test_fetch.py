"""
Getting SoftHSM on Debian and Ubuntu.

Scripts that record their arguments replace apt-get and dpkg-deb, since tests use no
network.  ``docs/how-to/softhsm.md`` describes how the real commands were tested.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from signer.config.settings import Settings
from signer.errors import ConfigurationError
from softhsm import library
from softhsm.layout import Layout


APT_GET = """\
#!/bin/sh
echo "apt-get $*" >> "{folder}/record"
env >> "{folder}/environment"
if [ -e "{folder}/broken" ]; then echo "E: no route to the mirror"; exit 100; fi
for option in "$@"; do
  case "$option" in -oDir::Cache=*) cache="${{option#*=}}" ;; esac
done
case "$*" in *install*) [ -z "$cache" ] || echo deb > "$cache/archives/one.deb" ;; esac
"""

DPKG_DEB = """\
#!/bin/sh
echo "dpkg-deb $*" >> "{folder}/record"
mkdir -p "$3/usr/lib/softhsm" && cp "{module}" "$3/usr/lib/softhsm/libsofthsm2.so"
"""


@pytest.fixture
def apt(tmp_path: Path, softhsm_module: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the scripts' ``record``, and ``environment``."""
    folder = tmp_path / "apt"
    folder.mkdir()
    for name, text in {"apt-get": APT_GET, "dpkg-deb": DPKG_DEB}.items():
        (folder / name).write_text(text.format(folder=folder, module=softhsm_module))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The files of a project without a module."""
    layout = Layout.of(tmp_path / "home")
    layout.prepare()
    return layout


def test_fetches_into_the_project_without_root(apt: Path, layout: Layout) -> None:
    """Without root, apt uses lists and a cache in the project, which are removed."""
    messages: list[str] = []

    module = library.install(layout, messages.append, is_root=False)

    update, install, unpack = (apt / "record").read_text().splitlines()
    state = layout.root / "apt"
    for line in (update, install):
        assert f"-oDir::State={state} " in line
        assert f"-oDir::Cache={state}/cache " in line
    assert "install -y --download-only --reinstall --no-install-recommends" in install
    assert unpack.startswith("dpkg-deb -x ")
    assert module == layout.lib / "usr/lib/softhsm/libsofthsm2.so"
    assert not state.exists()
    assert len(messages) == 2
    settings = Settings.from_env({"HOTWALLET_HOME": str(layout.root.parent)})
    assert library.find_module(settings, places=()) == module


def test_installs_as_root(apt: Path, layout: Layout) -> None:
    """As root, apt installs the package, and the system's module is used."""
    module = library.install(layout, lambda _: None, is_root=True)

    assert (apt / "record").read_text().splitlines() == [
        "apt-get update -qq",
        "apt-get install -qq -y --no-install-recommends libsofthsm2",
    ]
    assert module == library.find_installed()


@pytest.mark.parametrize("is_root", [True, False])
def test_a_failure_of_apt_is_reported(
    apt: Path,
    layout: Layout,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_root: bool,
) -> None:
    """apt's output and the command to run are shown; no incomplete folder is left."""
    (apt / "broken").touch()

    with pytest.raises(ConfigurationError, match="softhsm-missing") as caught:
        library.install(layout, lambda _: None, is_root=is_root)
    monkeypatch.setenv("PATH", "/nowhere")  # Without apt, nothing is run.
    with pytest.raises(ConfigurationError, match="softhsm-missing"):
        library.install(layout, lambda _: None)

    assert library.install_command() in str(caught.value)
    assert "E: no route to the mirror" in capfd.readouterr().err
    assert not layout.lib.exists()


def test_apt_gets_no_secrets(
    apt: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P14: apt does not inherit our environment variables."""
    monkeypatch.setenv("PKCS11_PIN", "canary")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    library.install(layout, lambda _: None, is_root=False)

    seen = (apt / "environment").read_text()
    assert "canary" not in seen
    assert "http_proxy=http://127.0.0.1:9" in seen


@pytest.mark.parametrize("is_named", [False, True])
def test_dependencies_are_loaded_in_any_order(layout: Layout, is_named: bool) -> None:
    """Dependencies are loaded first, in any order; a broken file is skipped."""
    folder = layout.lib / "usr/lib/x86_64-linux-gnu"
    (folder / "softhsm").mkdir(parents=True)
    module = folder / "softhsm" / library.NAME
    module.touch()
    named = {"PKCS11_MODULE": str(module)} if is_named else {}
    (folder / "liba.so.1").write_text("no library")
    companion = folder / "libb.so.1"
    companion.write_bytes(Path(_compiled_module()).read_bytes())
    settings = {"HOTWALLET_HOME": str(layout.root.parent), **named}
    program = (
        "from pathlib import Path; from softhsm import library\n"
        "from signer.config.settings import Settings\n"
        f"library.find_module(Settings.from_env({settings!r}), places=())\n"
        "print(Path('/proc/self/maps').read_text())\n"
    )

    maps = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert str(companion) in maps


def _compiled_module() -> str:
    import _bz2  # noqa: PLC0415

    return _bz2.__file__
