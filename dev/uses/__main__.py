"""
Makes the environments, runs the programs, and compares with the bounds.

It fails if a program fails or prints, or if a use needs more than it may.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from moto.server import ThreadedMotoServer

from dev.dist import build_client, build_wheel
from dev.kms_emulator import KMSEmulator
from signer.config.settings import Settings
from softhsm.account import make_token
from softhsm.library import require_module
from tests.support import audit


ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).parent
EXAMPLE = ROOT / "tests" / "plugins" / "example_backend"

_UV = Path(sys.executable).with_name("uv")
_FOLDERS = ("api", "backends", "signer", "softhsm")


@dataclass(frozen=True, slots=True)
class Use:
    """
    One use: what pip installs, what runs, and how much it may need.

    ``modules`` are those that ``imports`` loads beyond those of ``beyond``.  The CPU
    seconds are printed only, since they depend on the machine and its load.
    """

    name: str
    extras: str
    program: Sequence[str]
    packages: int
    megabytes: int
    imports: str
    modules: int
    beyond: str = "pass"
    also: Sequence[str] = field(default=())
    wheel: str = "service"


USES = (
    Use(
        "account, SoftHSM",
        "[pkcs11]",
        ("account.py",),
        packages=30,  # 23 are eth-account's.
        megabytes=65,
        imports="from hotwallet import open_account",
        modules=190,
        beyond="import eth_account",
    ),
    Use(
        "account, AWS KMS",
        "[kms]",
        ("kms_account.py",),
        packages=36,  # Seven are boto3's, with 25 MB.
        megabytes=90,
        imports="from hotwallet import HSMAccount, KMSBackend",
        modules=140,
        beyond="import boto3, eth_account",
    ),
    Use(
        "digests",
        " python-pkcs11",
        ("digests.py",),
        packages=12,
        megabytes=25,
        imports="from hotwallet import PKCS11Backend, recoverable",
        modules=210,
    ),
    Use(
        "audit verify",
        "[audit]",
        ("verifier.py",),
        packages=12,
        megabytes=40,
        imports="from hotwallet import verify_audit_export",
        modules=165,
    ),
    Use(
        "plugin author",
        "[testing]",
        ("-m", "pytest", "--quiet", "-p", "no:cacheprovider", "test_plugin.py"),
        packages=40,
        megabytes=100,
        imports="from hotwallet import KeyBackendContract",
        modules=120,
        beyond="import pytest",
        also=(str(EXAMPLE),),
    ),
    Use(
        "Python client",
        "",
        ("client.py",),
        packages=14,
        megabytes=25,
        imports="from hotwallet_client import HotWallet, AsyncHotWallet",
        modules=85,
        beyond="import httpx, cryptography",
        wheel="client",
    ),
)


def main() -> int:
    """Print a line for each use, and one for each problem; return the status."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory("-uses")))
        environ = stack.enter_context(_services(folder))
        wheels = {
            "service": build_wheel(folder / "wheel"),
            "client": build_client(folder / "client")[0],
        }
        problems = [
            f"{use.name}: {problem}"
            for use in USES
            for problem in _check(
                use, wheels[use.wheel], folder / use.program[-1], environ
            )
        ]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


@contextmanager
def _services(folder: Path) -> Iterator[Mapping[str, str]]:
    """Yield the environment of the programs: a token, our emulator, and moto."""
    home = Path(os.environ.get("HOTWALLET_HOME", ROOT / ".hotwallet"))
    module = require_module(Settings.from_env({"HOTWALLET_HOME": str(home)}))
    (folder / "token").mkdir()
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    try:
        with make_token(folder / "token") as token, KMSEmulator() as emulator:
            variables = token.environment(token.new_key())
            yield {
                "APP_ENV": "test",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "HOTWALLET_HOME": str(folder / "home"),
                "KMS_ENDPOINT": emulator.endpoint,
                "MOTO_ENDPOINT": "http://127.0.0.1:{1}".format(
                    *moto.get_host_and_port()
                ),
                "PATH": os.environ["PATH"],
                "PKCS11_MODULE": str(module),
                # ``open_account`` has a token of its own, and refuses another's file.
                **{f"THE_{name}": value for name, value in variables.items()},
            }
    finally:
        moto.stop()


def _check(
    use: Use, wheel: Path, folder: Path, environ: Mapping[str, str]
) -> Iterator[str]:
    python = _install(use, wheel, folder / "venv")
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    packages = len([*site.glob("*.dist-info")]) - len(use.also)
    megabytes = sum(p.stat().st_size for p in site.rglob("*") if p.is_file()) / 2**20
    top_level = {path.name for path in site.iterdir()} & {*_FOLDERS}
    application = _application(folder / "application")
    finished = subprocess.run(
        [python, *use.program],
        cwd=application,
        check=False,
        env=environ,
        text=True,
        capture_output=True,
    )
    modules, seconds = _import(python, use)
    print(
        f"{use.name:18} {packages:3} packages {megabytes:6.1f} MB {modules:4} modules"
        f" {seconds:5.2f} s of CPU beyond `{use.beyond}`"
    )
    if finished.returncode:
        yield f"the program failed:\n{finished.stdout}{finished.stderr}"
    elif finished.stdout and use.program[0] != "-m":
        yield f"the program printed {finished.stdout!r}"
    if top_level:
        yield f"the wheel has {', '.join(sorted(top_level))} at its top level"
    for bound, value, unit in (
        (use.packages, packages, "packages"),
        (use.megabytes, megabytes, "MB"),
        (use.modules, modules, "modules"),
    ):
        if value > bound:
            yield f"{value:.4g} {unit}, and at most {bound} are allowed"


def _install(use: Use, wheel: Path, venv: Path) -> Path:
    """Make an environment with the wheel, and locked versions of what it needs."""
    python = venv / "bin" / "python"
    lock = ROOT / "requirements" / "dev.txt"
    install: list[str | Path] = [_UV, "pip", "install", "--quiet", "--python", python]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    wanted = f"{wheel}{use.extras}".split()
    subprocess.run([*install, "--constraint", lock, *wanted], check=True)
    for package in use.also:
        built = venv / "built"
        build: list[str | Path] = [
            _UV,
            "build",
            "--quiet",
            "--wheel",
            "--no-build-isolation",
        ]
        build += ["--python", sys.executable, "--out-dir", built, package]
        subprocess.run(build, check=True)
        subprocess.run([*install, "--no-deps", *built.glob("*.whl")], check=True)
    return python


def _application(folder: Path) -> Path:
    """Make the folder of a program, whose own packages are named like ours."""
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True)
        text = f'raise ImportError("{name} of the application was imported")\n'
        (folder / name / "__init__.py").write_text(text)
    for program in PROGRAMS.glob("[!_]*.py"):
        shutil.copy(program, folder)
    test = (EXAMPLE / "test_example_backend.py").read_text(encoding="utf-8")
    test = test.replace("tests.plugins.example_backend.", "")
    (folder / "test_plugin.py").write_text(test, encoding="utf-8")
    links = audit.chain(20)
    note = audit.checkpoint(links, 10).note
    (folder / "audit.jsonl").write_bytes(b"".join(audit.exported(links, [10, 20])))
    (folder / "audit.pub.pem").write_bytes(audit.KEY.public_pem())
    (folder / "kept.txt").write_text(note, encoding="utf-8")
    return folder


def _import(python: Path, use: Use) -> tuple[int, float]:
    """Return the modules that the imports load, and their CPU seconds."""
    code = (
        f"import sys, time; {use.beyond}\n"
        "modules, seconds = len(sys.modules), time.process_time()\n"
        f"{use.imports}\n"
        "print(len(sys.modules) - modules, time.process_time() - seconds)"
    )
    command: list[str | Path] = [python, "-P", "-c", code]
    printed = subprocess.check_output(command, env={}, text=True)
    modules, seconds = printed.splitlines()[-1].split()
    return int(modules), float(seconds)


if __name__ == "__main__":
    sys.exit(main())
