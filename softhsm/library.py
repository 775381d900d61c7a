"""Where SoftHSM's module is on the systems that we know, or how to install it."""

import ctypes
import platform
from collections.abc import Sequence
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
    "/usr/local/lib/softhsm",  # Homebrew on Intel, and what was built by hand
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


def find(settings: Settings, places: Sequence[str] = PLACES) -> Path | None:
    """
    Return the module: ``PKCS11_MODULE``, the system's, or the fetched one.

    A ``PKCS11_MODULE`` that does not exist is returned all the same: whoever
    named a module does not want another.
    """
    layout, named = Layout.of(settings.home), settings.pkcs11_module
    if named is None:
        return installed(places) or fetched(layout)
    if named.is_relative_to(layout.lib):
        _load_companions(layout.lib)
    return named


def installed(places: Sequence[str] = PLACES) -> Path | None:
    """Return the system's module; *places* are folders, or patterns for them."""
    for place in places:
        folder = Path(place).expanduser()
        pattern = str(folder.relative_to(folder.anchor) / NAME)
        for found in sorted(Path(folder.anchor).glob(pattern)):
            return found
    return None


def fetched(layout: Layout) -> Path | None:
    """Return the module that ``fetch`` put into the project, ready to load."""
    module = next(iter(sorted(layout.lib.rglob(NAME))), None)
    if module is not None:
        _load_companions(layout.lib)
    return module


def require(settings: Settings) -> Path:
    """
    Return what ``find`` finds.

    Raises:
        ConfigurationError: ``softhsm-missing``.
    """
    found = find(settings)
    if found is None:
        raise missing("run: hotwallet softhsm init")
    return found


def missing(cure: str) -> ConfigurationError:
    """Return the error that says that there is no module, and what to do."""
    return ConfigurationError(
        Refusal("softhsm-missing", f"SoftHSM is not installed; {cure}")
    )


def install_line() -> str:
    """Return the one line that installs SoftHSM on this system."""
    for name in _system_names():
        if name in _INSTALL:
            return f"run: {_INSTALL[name]}"
    return "install SoftHSM 2, and set PKCS11_MODULE to its libsofthsm2.so"


def _system_names() -> list[str]:
    """Return what this system calls itself, and then what it is like."""
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

    The dynamic linker would not look for them here.  It does not have to: it uses
    a loaded library of the right name.  They need each other in an order that we
    do not know, so whatever does not load is tried again after the others.
    """
    waiting = sorted(folder.rglob("*.so.*"))
    for _ in range(len(waiting)):
        for path in list(waiting):
            with suppress(OSError):
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
                waiting.remove(path)
