"""Finds SoftHSM's PKCS#11 module, or the command that installs it."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from signer.config.settings import Settings
from signer.errors import ConfigurationError, Refusal
from softhsm.layout import Layout


NAME = "libsofthsm2.so"

PLACES: Sequence[str] = (
    "/usr/lib/softhsm",  # Debian, Ubuntu, Arch, Alpine
    "/usr/lib/*-linux-gnu*/softhsm",  # Debian and Ubuntu, per architecture
    "/usr/lib64/softhsm",  # Fedora, openSUSE
    "/usr/lib64/pkcs11",  # Fedora, RHEL
    "/usr/lib64",
    "/usr/lib/pkcs11",
    "/usr/local/lib/softhsm",  # Homebrew on Intel, and builds from source
    "/opt/homebrew/lib/softhsm",  # Homebrew on Apple silicon
    "/home/linuxbrew/.linuxbrew/lib/softhsm",
    "~/.nix-profile/lib/softhsm",
    "/nix/var/nix/profiles/default/lib/softhsm",
    "/run/current-system/sw/lib/softhsm",  # NixOS
)

_INSTALL = {
    "debian": "sudo apt-get install -y libsofthsm2",
    "ubuntu": "sudo apt-get install -y libsofthsm2",
    "fedora": "sudo dnf install -y softhsm",
    "rhel": "sudo dnf install -y softhsm",
    "arch": "sudo pacman -S --noconfirm softhsm",
    "alpine": "sudo apk add softhsm",
    "suse": "sudo zypper install -y softhsm",
    "nixos": "nix profile install nixpkgs#softhsm",
    "darwin": "brew install softhsm",
}


def find_module(settings: Settings, places: Sequence[str] = PLACES) -> Path | None:
    """
    Return the path of ``PKCS11_MODULE``, of the system's module, or of the fetched one.

    A ``PKCS11_MODULE`` that does not exist is returned too: using another module than
    the configured one would be wrong.
    """
    layout, named = Layout.of(settings.home), settings.pkcs11_module
    if named is None:
        return find_installed(places) or find_fetched(layout)
    if named.is_relative_to(layout.lib):
        _load_companions(layout.lib)
    return named


def find_installed(places: Sequence[str] = PLACES) -> Path | None:
    """Return the system's module; *places* are folders or glob patterns."""
    for place in places:
        folder = Path(place).expanduser()
        pattern = str(folder.relative_to(folder.anchor) / NAME)
        for found in sorted(Path(folder.anchor).glob(pattern)):
            return found
    return None


def find_fetched(layout: Layout) -> Path | None:
    """Return the module that ``fetch`` downloaded, with its dependencies loaded."""
    module = next(iter(sorted(layout.lib.rglob(NAME))), None)
    if module is not None:
        _load_companions(layout.lib)
    return module


def require_module(settings: Settings) -> Path:
    """Return the module that ``find_module`` finds; raises ``ConfigurationError``."""
    module = find_module(settings)
    if module is None:
        raise missing_error("run: hotwallet softhsm init")
    return module


def missing_error(cure: str) -> ConfigurationError:
    """Return the error for a missing module; *cure* says what to do."""
    return ConfigurationError(
        Refusal("softhsm-missing", f"SoftHSM is not installed; {cure}")
    )


def install_command() -> str:
    """Return the command that installs SoftHSM on this system."""
    for name in _system_names():
        if name in _INSTALL:
            return f"run: {_INSTALL[name]}"
    return "install SoftHSM 2, and set PKCS11_MODULE to its libsofthsm2.so"


def _system_names() -> list[str]:
    """Return this system's ID, then the systems that it is like (os-release(5))."""
    if platform.system() != "Linux":
        return [platform.system().lower()]
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return []
    return [release["ID"], *release.get("ID_LIKE", "").split()]


def _load_companions(folder: Path) -> None:
    """
    Load the libraries that were fetched along with the module.

    The dynamic linker does not search this folder, but it uses a library of the right
    name that is loaded already.  The order of dependencies is unknown, so a library
    that does not load is tried again after the others.
    """
    waiting = sorted(folder.rglob("*.so.*"))
    for _ in range(len(waiting)):
        for path in list(waiting):
            with suppress(OSError):
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
                waiting.remove(path)


_PACKAGE = "libsofthsm2"

# apt gets no other variable, since one may hold a PIN.
_INHERITED = ("PATH", "HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy")

Report = Callable[[str], None]


def install(layout: Layout, report: Report, *, is_root: bool | None = None) -> Path:
    """
    Install SoftHSM, and return the path of its module.

    *report* is called with each line of progress.

    Raises:
        ConfigurationError: SoftHSM cannot be installed (``softhsm-missing``); the
            message has the command to run instead.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise missing_error(install_command())
    if os.geteuid() == 0 if is_root is None else is_root:
        return _install_on_system(report)
    return _install_in_project(layout, report)


def _install_on_system(report: Report) -> Path:
    report("Installing SoftHSM with apt")
    _run(["apt-get", "update", "-qq"])
    _run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", _PACKAGE])
    return _require_module(find_installed())


def _install_in_project(layout: Layout, report: Report) -> Path:
    """Download and unpack the package; the folder appears when it is complete."""
    apt = layout.root / "apt"
    partial = layout.root / "lib.partial"
    for folder in (partial, layout.lib):
        shutil.rmtree(folder, ignore_errors=True)
    report("Reading the package lists, into the project (this takes a moment)")
    read_package_lists(apt)
    report("Downloading and unpacking SoftHSM")
    unpack_package(_PACKAGE, apt, partial)
    shutil.rmtree(apt)
    partial.rename(layout.lib)
    return _require_module(find_fetched(layout))


def read_package_lists(apt: Path) -> None:
    """
    Let apt read its lists into the folder *apt*, which needs no root.

    Raises:
        ConfigurationError: apt failed (``softhsm-missing``).
    """
    shutil.rmtree(apt, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "log"):
        (apt / name).mkdir(parents=True)
    _run([*_apt_get(apt), "update"])


def unpack_package(name: str, apt: Path, folder: Path) -> None:
    """
    Download a package with what the system lacks of its dependencies, and unpack them.

    *apt* has the lists.  apt verifies each package by the archive's signature.

    Raises:
        ConfigurationError: apt failed (``softhsm-missing``).
    """
    flags = ["-y", "--download-only", "--reinstall", "--no-install-recommends"]
    _run([*_apt_get(apt), "install", *flags, name])
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(folder)])
        package.unlink()


def _require_module(module: Path | None) -> Path:
    if module is None:
        raise missing_error(install_command())
    return module


def _apt_get(state: Path) -> list[str]:
    """Return an apt-get command with its own lists and cache: it needs no root."""
    options = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",  # What the system has already.
        "Dir::Cache": state / "cache",
        "Dir::Log": state / "log",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "true",
    }
    flags = [f"-o{name}={value}" for name, value in options.items()]
    return ["apt-get", "-qq", *flags]


def _run(command: Sequence[str]) -> None:
    """Run *command*; print its output only if it fails."""
    try:
        subprocess.run(  # noqa: S603  Fixed programs; no argument comes from a caller.
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_apt_environment(),
        )
    except (OSError, subprocess.CalledProcessError) as e:
        sys.stderr.buffer.write(getattr(e, "output", None) or b"")
        raise missing_error(install_command()) from None


def _apt_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**kept, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
