"""
Builds the packages for a release: ``python -m dev.dist``.

They are the wheel of the service, and the wheel and source archive of the Python
client.  The first has an SBOM (CycloneDX) of the locked dependencies.  Each is built
twice, from two copies in two folders, and both must be the same bytes.  So another
person can build the same packages from the same commit.  The wheel of the service is
then installed, and tried outside the checkout.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dev.hatch_build import SBOM


ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"

_UV = Path(sys.executable).with_name("uv")


def build_release(uv: Path = _UV) -> Path:
    """
    Build the packages and ``SHA256SUMS`` in ``dist``, and return the service's wheel.

    Raises:
        subprocess.CalledProcessError: Git, uv, the SBOM or the build failed.
        RuntimeError: Two builds of one package differ.
    """
    environ = {**os.environ, "SOURCE_DATE_EPOCH": _git("log", "-1", "--format=%ct")}
    sums: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="hotwallet-dist-") as folder:
        sbom, venv = Path(folder) / "sbom.json", Path(folder) / "venv"
        _write_sbom(sbom, venv, uv, environ)
        one, another = (
            _build(Path(folder) / name, sbom, environ)
            for name in ("one", "another/folder")
        )
        DIST.mkdir(exist_ok=True)
        for package, again in zip(one, another, strict=True):
            digests = [
                hashlib.sha256(each.read_bytes()).hexdigest()
                for each in (package, again)
            ]
            if len({*digests}) > 1:
                raise RuntimeError(f"two builds of {package.name} differ: {digests}")
            sums[package.name] = digests[0]
        _try(one[0], venv, uv)
        for package in one:
            shutil.copyfile(package, DIST / package.name)
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    (DIST / "SHA256SUMS").write_text(text, encoding="utf-8")
    return DIST / next(iter(sums))


def _write_sbom(path: Path, venv: Path, uv: Path, environ: dict[str, str]) -> None:
    """Describe an environment that has exactly what ``runtime.txt`` locks."""
    python = venv / "bin" / "python"
    lock = ROOT / "requirements" / "runtime.txt"
    commands: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", "--without-pip", venv],
        [uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", lock],
        [
            *(sys.executable, "-m", "cyclonedx_py", "environment", python),
            *("--pyproject", ROOT / "pyproject.toml", "--output-reproducible"),
            *("--short-PURLs", "--output-file", path),
        ],
    ]
    for command in commands:
        subprocess.run(command, check=True, env=environ)


def _build(folder: Path, sbom: Path, environ: dict[str, str]) -> Sequence[Path]:
    """Build the packages of the last commit in *folder*."""
    folder.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    ).stdout
    subprocess.run(["tar", "-x"], cwd=folder, check=True, input=archive)
    (folder / SBOM).parent.mkdir()
    shutil.copyfile(sbom, folder / SBOM)
    into = folder / "dist"
    return [
        build_wheel(into / "service", folder, environ),
        *build_client(into / "client", folder, environ),
    ]


def build_wheel(
    into: Path, checkout: Path = ROOT, environ: dict[str, str] | None = None
) -> Path:
    """Build the wheel of *checkout* as it is, in the folder *into*."""
    _hatch(checkout, ("wheel",), into, environ)
    (wheel,) = into.glob("*.whl")
    return wheel


def build_client(
    into: Path, checkout: Path = ROOT, environ: dict[str, str] | None = None
) -> tuple[Path, Path]:
    """Build wheel and source archive of the Python client, in the folder *into*."""
    _hatch(checkout / "clients" / "python", ("sdist", "wheel"), into, environ)
    (wheel,), (archive,) = into.glob("*.whl"), into.glob("*.tar.gz")
    return wheel, archive


def _hatch(
    project: Path, targets: Sequence[str], into: Path, environ: dict[str, str] | None
) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(into)]
    subprocess.run(
        [*command, *(f"--target={each}" for each in targets)],
        cwd=project,
        check=True,
        env=environ,
        stdout=subprocess.DEVNULL,
    )


def _try(wheel: Path, venv: Path, uv: Path) -> None:
    """Install *wheel* into *venv*, and run what reads files of the package."""
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--offline"]
    install += ["--no-deps", "--python", venv / "bin" / "python", wheel]
    subprocess.run(install, check=True)
    environ = {
        "APP_ENV": "test",
        "HOTWALLET_HOME": str(venv.parent / "home"),
        "PATH": os.environ["PATH"],
    }
    for command in ("--version", "explain-code kms-not-configured", "db upgrade"):
        subprocess.run(
            [venv / "bin" / "hotwallet", *command.split()],
            cwd=venv,
            check=True,
            env=environ,
            stdout=sys.stderr,
        )


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    print(build_release())
