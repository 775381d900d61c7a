"""
Builds the wheel for a release: ``python -m dev.dist``.

The wheel has an SBOM (CycloneDX) of the locked dependencies.  It is built twice, from
two copies in two folders, and both must be the same bytes.  So another person can build
the same wheel from the same commit.  It is then installed, and tried outside the
checkout.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dev.hatch_build import SBOM


ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"

_UV = Path(sys.executable).with_name("uv")


def build_release(uv: Path = _UV) -> Path:
    """
    Build wheel and ``SHA256SUMS`` in ``dist``, and return the wheel.

    Raises:
        subprocess.CalledProcessError: Git, uv, the SBOM or the build failed.
        RuntimeError: The two wheels differ.
    """
    environ = {**os.environ, "SOURCE_DATE_EPOCH": _git("log", "-1", "--format=%ct")}
    with tempfile.TemporaryDirectory(prefix="hotwallet-dist-") as folder:
        sbom, venv = Path(folder) / "sbom.json", Path(folder) / "venv"
        _write_sbom(sbom, venv, uv, environ)
        wheels = [
            _build(Path(folder) / name, sbom, environ)
            for name in ("one", "another/folder")
        ]
        digests = [hashlib.sha256(each.read_bytes()).hexdigest() for each in wheels]
        if len({*digests}) > 1:
            raise RuntimeError(f"two builds of one commit differ: {digests}")
        _try(wheels[0], venv, uv)
        DIST.mkdir(exist_ok=True)
        wheel = DIST / wheels[0].name
        shutil.copyfile(wheels[0], wheel)
    sums = f"{digests[0]}  {wheel.name}\n"
    (DIST / "SHA256SUMS").write_text(sums, encoding="utf-8")
    return wheel


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


def _build(folder: Path, sbom: Path, environ: dict[str, str]) -> Path:
    """Build the wheel of the last commit in *folder*."""
    folder.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    ).stdout
    subprocess.run(["tar", "-x"], cwd=folder, check=True, input=archive)
    (folder / SBOM).parent.mkdir()
    shutil.copyfile(sbom, folder / SBOM)
    return build_wheel(folder / "dist", folder, environ)


def build_wheel(
    into: Path, checkout: Path = ROOT, environ: dict[str, str] | None = None
) -> Path:
    """Build the wheel of *checkout* as it is, in the folder *into*."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "--target",
            "wheel",
            "--directory",
            str(into),
        ],
        cwd=checkout,
        check=True,
        env=environ,
        stdout=subprocess.DEVNULL,
    )
    (wheel,) = into.glob("*.whl")
    return wheel


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
