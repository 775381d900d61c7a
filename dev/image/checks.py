"""Checks the files and the configuration of the image."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any


USER = "hotwallet"
UID = 10001

_HOME = Path("var/lib/hotwallet")

# What builds, or fetches from outside.
_TOOLS = re.compile(
    r"(x86_64-|aarch64-).*-(gcc|as|ld)(-\d+)?|(gcc|g\+\+|cc|c\+\+|clang|tcc|cpp)(-\d+)?"
    r"|as|ld|make|cargo|rustc|go|node|npm|uv|uvx|hatch(ling)?|curl|wget|git|ssh"
)
_OURS = {"hotwallet"}
_NOT_OURS = {"api", "backends", "bench", "dev", "signer", "softhsm", "tests"}
_SECRET_NAMES = re.compile(r".*\.(key|env|db)|\.env.*|id_(rsa|ed25519).*|\.git")
_SIZE = re.compile(r"^ +size +(\d+) MB$", re.MULTILINE)
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")


def problems(tree: Path, configuration: Any) -> list[str]:
    """Return what is wrong with the image, one line each; none if it is as promised."""
    return [*_configuration_problems(configuration["config"]), *_file_problems(tree)]


def size_megabytes(tree: Path) -> float:
    """Return the size of all files."""
    return sum(p.lstat().st_size for p in _walk(tree) if not p.is_dir()) / 1e6


def size_problems(megabytes: float, guide: str) -> Iterator[str]:
    """Yield the problem if the size differs by a tenth from the one in *guide*."""
    stated = float(_SIZE.findall(guide)[0])
    if abs(megabytes - stated) > stated / 10:
        yield f"{megabytes:.0f} MB, and docs/how-to/deploy.md shows {stated:.0f}"


def _configuration_problems(config: Any) -> Iterator[str]:
    if config.get("User") != USER:
        yield f"the user is {config.get('User')!r}"
    if config.get("Cmd") != ["hotwallet", "up"]:
        yield f"the command is {config.get('Cmd')}"
    health = (config.get("Healthcheck") or {}).get("Test")
    if health != ["CMD", "hotwallet", "health"]:
        yield f"the health check is {health}"
    for variable in config["Env"]:
        if re.search(r"KEY|PASSWORD|SECRET|TOKEN|INDEX|PROXY", variable.split("=")[0]):
            yield f"the environment has {variable.split('=')[0]}"


def _file_problems(tree: Path) -> Iterator[str]:
    for path in _walk(tree):
        name, status = path.relative_to(tree), path.lstat()
        is_file = stat.S_ISREG(status.st_mode)
        yield from _owner_problems(name, status, is_file)
        if path.parent.name in ("bin", "sbin") and _TOOLS.fullmatch(path.name):
            yield f"{name} is a tool of builds"
        if is_file:
            yield from _secret_problems(path, name)
    yield from _package_problems(tree)


def _owner_problems(name: Path, status: os.stat_result, is_file: bool) -> Iterator[str]:
    mode = status.st_mode
    if is_file and mode & (stat.S_ISUID | stat.S_ISGID):
        yield f"{name} is setuid or setgid"
    if UID in (status.st_uid, status.st_gid) and _HOME not in (name, *name.parents):
        yield f"{name} belongs to the user"
    # Devices and links are writable by all, and folders like /tmp are sticky.
    is_folder = stat.S_ISDIR(mode) and not mode & stat.S_ISVTX
    if (is_file or is_folder) and mode & stat.S_IWOTH:
        yield f"{name} is writable by all"


def _secret_problems(path: Path, name: Path) -> Iterator[str]:
    if _SECRET_NAMES.fullmatch(name.name):
        yield f"{name} has the name of a secret"
    is_ours = name.parts[0] not in ("bin", "lib", "lib64", "sbin", "usr")
    # PyCryptodome ships its published test vectors.
    is_vector = "SelfTest" in name.parts
    if is_ours and not is_vector and _PRIVATE_KEY.search(path.read_bytes()):
        yield f"{name} has a private key"


def _package_problems(tree: Path) -> Iterator[str]:
    (packages,) = (tree / "opt/hotwallet/lib").glob("python3*/site-packages")
    found = {each.name for each in packages.iterdir()}
    for missing in sorted(_OURS - found):
        yield f"{missing} is missing"
    for extra in sorted(found & (_NOT_OURS | {"pip", "setuptools", "uv"})):
        yield f"{extra} is installed"
    for each in sorted(_OURS & found):
        for source in (packages / each).rglob("*.py"):
            if not any((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")):
                yield f"{source.relative_to(tree)} is not compiled"


def _walk(tree: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(tree):
        yield from (Path(folder, each) for each in [*folders, *files])
