"""The files of a project's SoftHSM: places, permissions and recovery."""

import os
import stat
from pathlib import Path

import pytest

from signer.config.settings import Settings
from signer.errors import AccessDeniedError, ConfigurationError
from signer.private_files import write_whole
from softhsm import library
from softhsm.layout import (
    CONF_VARIABLE,
    Layout,
    ask_program,
    back_up,
    ensure_pin,
    pin_source,
    read_pin,
    restore_copies,
    use_project_conf,
)
from softhsm.plugin import prepare


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A prepared layout."""
    layout = Layout.of(tmp_path)
    layout.prepare()
    return layout


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a project in an empty folder."""
    return Settings.from_env({"APP_ENV": "test", "HOTWALLET_HOME": str(tmp_path)})


def test_files_are_private(layout: Layout) -> None:
    """Folders have mode 0700 and files 0600; a PIN has 128 bits and is created once."""
    pin = ensure_pin(layout.pin)
    assert len(bytes.fromhex(pin)) == 16
    assert ensure_pin(layout.pin) == pin != ensure_pin(layout.so_pin)

    for path in (layout.root, layout.tokens):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (layout.conf, layout.pin):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_configuration_has_the_required_settings(layout: Layout) -> None:
    """File objects, reset on fork, and the folder of a project, which may move."""
    before = layout.conf.stat().st_mtime_ns
    layout.prepare()
    assert layout.conf.stat().st_mtime_ns == before
    layout.conf.write_text("directories.tokendir = /nowhere\n")
    layout.prepare()

    assert {*layout.conf.read_text().splitlines()} >= {
        f"directories.tokendir = {layout.tokens}",
        "objectstore.backend = file",
        "library.reset_on_fork = true",
        "log.level = ERROR",
        "slots.removable = false",
    }


@pytest.mark.parametrize("is_empty", [False, True], ids=["unset", "empty"])
def test_softhsm_conf_is_set_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_empty: bool
) -> None:
    """A file of settings may have the variable without a value."""
    monkeypatch.setenv(CONF_VARIABLE, "")
    if not is_empty:
        monkeypatch.delenv(CONF_VARIABLE)

    assert use_project_conf(tmp_path) == Layout.of(tmp_path).conf
    assert os.environ[CONF_VARIABLE] == str(Layout.of(tmp_path).conf)
    assert use_project_conf(tmp_path / "other") == Layout.of(tmp_path).conf


@pytest.mark.parametrize("name", ["file", "program"])
def test_the_pin_may_come_from_the_uri_of_the_token(tmp_path: Path, name: str) -> None:
    """``pin-source`` is a file, or a program after a bar (RFC 7512)."""
    path = tmp_path / name
    write_whole(path, b"1234\n" if name == "file" else b"#!/bin/sh\necho 1234\n")
    if name == "program":
        path.chmod(0o700)
    source = f"%7C{path}" if name == "program" else f"file:{path}"

    assert pin_source(_with_token(f"pkcs11:token=t?pin-source={source}"))() == "1234"


def test_a_file_of_the_settings_comes_before_the_uri(tmp_path: Path) -> None:
    write_whole(tmp_path / "pin", b"5678")
    settings = _with_token(
        "pkcs11:token=t?pin-source=|/nowhere", PKCS11_PIN_FILE=str(tmp_path / "pin")
    )

    assert pin_source(settings)() == "5678"


@pytest.mark.parametrize(
    "program", ["exit 3", "echo 1234; exit 1", "true", "printf '1234\\377'"]
)
def test_a_program_without_a_pin_is_refused(tmp_path: Path, program: str) -> None:
    """The error says what to do, and shows nothing that the program printed."""
    path = tmp_path / "program"
    write_whole(path, f"#!/bin/sh\n{program}\n".encode())
    path.chmod(0o700)

    with pytest.raises(AccessDeniedError, match="run it by hand") as caught:
        ask_program(path)

    assert caught.value.__context__ is None
    with pytest.raises(AccessDeniedError, match="run it by hand"):
        ask_program(tmp_path / "missing")


def _with_token(token: str, **environ: str) -> Settings:
    return Settings.from_env({"PKCS11_TOKEN_LABEL": token, **environ})


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o601])
def test_a_pin_that_others_may_read_is_refused(layout: Layout, mode: int) -> None:
    """P14: the error has the command that corrects the mode."""
    pin = ensure_pin(layout.pin)
    layout.pin.chmod(mode)

    with pytest.raises(AccessDeniedError, match="chmod 600") as caught:
        read_pin(layout.pin)

    assert pin not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"", b" \n"])
def test_a_pin_that_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    """A missing, binary or empty PIN file; the error omits path and content."""
    path = tmp_path / "pin"
    if content is not None:
        write_whole(path, content)

    with pytest.raises(AccessDeniedError) as caught:
        read_pin(path)

    assert caught.value.__cause__ is None
    assert str(tmp_path) not in str(caught.value)


def test_the_pin_comes_from_the_variable_the_file_or_the_project(
    tmp_path: Path, layout: Layout
) -> None:
    """P14: PKCS11_PIN wins, then PKCS11_PIN_FILE, then the file that ``init`` wrote."""
    home = {"HOTWALLET_HOME": str(tmp_path)}
    own = ensure_pin(layout.pin)
    file = tmp_path / "other"
    write_whole(file, b"from the file\n")
    named = {**home, "PKCS11_PIN_FILE": str(file)}
    given = {**named, "PKCS11_PIN": "from the variable"}

    assert pin_source(Settings.from_env(home))() == own
    assert pin_source(Settings.from_env(named))() == "from the file"
    assert pin_source(Settings.from_env(given))() == "from the variable"


def test_finds_the_module_in_three_places(tmp_path: Path, settings: Settings) -> None:
    """PKCS11_MODULE, the system and the project, in this order."""
    named = Settings.from_env({"PKCS11_MODULE": "/opt/vendor.so"})
    fetched = _touch(Layout.of(tmp_path).lib / "usr/lib/softhsm")
    installed = _touch(tmp_path / "lib/x-linux-gnu/softhsm")

    assert (
        library.find_module(settings, [f"{tmp_path}/lib/*-linux-gnu*/softhsm"])
        == installed
    )
    assert library.find_module(settings, ["/nowhere", "~/nowhere"]) == fetched
    assert library.find_module(named, [str(tmp_path)]) == Path("/opt/vendor.so")


def test_a_missing_module_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has a code, and the command that installs SoftHSM."""
    monkeypatch.setattr(library, "PLACES", ())

    assert library.find_module(settings, []) is None
    with pytest.raises(ConfigurationError, match=r"softhsm-missing: .* softhsm init"):
        raise library.missing_error("run: hotwallet softhsm init")


@pytest.mark.parametrize(
    ("system", "release", "line"),
    [
        ("Darwin", None, "brew install softhsm"),
        ("Linux", {"ID": "debian"}, "sudo apt-get install -y libsofthsm2"),
        ("Linux", {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "apt-get install"),
        (
            "Linux",
            {"ID": "rocky", "ID_LIKE": "rhel centos fedora"},
            "dnf install -y softhsm",
        ),
        ("Linux", {"ID": "arch"}, "pacman -S --noconfirm softhsm"),
        ("Linux", {"ID": "alpine"}, "apk add softhsm"),
        ("Linux", {"ID": "nixos"}, "nix profile install nixpkgs#softhsm"),
        ("Linux", {"ID": "plan9"}, "set PKCS11_MODULE"),
    ],
)
def test_install_command_of_each_system(
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    release: dict[str, str] | None,
    line: str,
) -> None:
    """A system is recognised by ID, or else by ID_LIKE (os-release(5))."""
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)

    assert line in library.install_command()


def test_an_empty_token_file_is_restored(layout: Layout) -> None:
    token = _token(layout, b"sealed")
    back_up(layout.tokens)
    (token / "token.object").write_bytes(b"")

    restore_copies(layout)

    assert (token / "token.object").read_bytes() == b"sealed"


def test_a_copy_is_made_once(layout: Layout) -> None:
    """An empty file is not copied, and a copy is not overwritten."""
    token = _token(layout, b"")
    back_up(layout.tokens)
    assert not (token / "token.object.copy").exists()

    for content in (b"first", b"second"):
        (token / "token.object").write_bytes(content)
        back_up(layout.tokens)

    assert (token / "token.object.copy").read_bytes() == b"first"


def test_an_empty_token_file_without_a_copy_is_refused(
    layout: Layout, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged token is refused: a new key must not replace it."""
    monkeypatch.setenv(CONF_VARIABLE, str(layout.conf))
    _token(layout, b"")

    with pytest.raises(ConfigurationError, match="softhsm-damaged"):
        prepare(settings)


def _token(layout: Layout, content: bytes) -> Path:
    token = layout.tokens / "0b1f"
    token.mkdir()
    (token / "token.object").write_bytes(content)
    return token


def _touch(folder: Path) -> Path:
    folder.mkdir(parents=True)
    path = folder / library.NAME
    path.touch()
    return path
