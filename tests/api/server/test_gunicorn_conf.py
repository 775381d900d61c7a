"""The settings of gunicorn, and the guard that runs before it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from api.server.gunicorn_conf import run_guard
from tests.api.live_server import ROOT, Server
from tests.support.forked_processes import run_command, run_module
from tests.support.programs import run_python
from tests.support.waiting import eventually


CONFIG = "python:api.server.gunicorn_conf"
CONFIGS = [CONFIG, "docker/gunicorn.conf.py"]
APP = "api.server.entrypoint:get_app()"
SIGNING = "api.extras.signing_api.routes"
OF_SIGNING = {SIGNING, "Crypto", "eth_account"}
OF_SOME_ROLES = {
    "backends.aws_kms.backend",
    "backends.google_cloud_kms.backend",
    "backends.pkcs11",
    "api.http.administration",
    *OF_SIGNING,
}
NEVER_LOADED = {
    "aiohttp",
    "alembic",
    "click",
    "jinja2",
    "markdown_it",
    "requests",
    "segno",
    "web3",
}
DIFFERENT = "these settings differ from api/server/gunicorn_conf.py"


def _gunicorn(
    *arguments: str, config: str | None = CONFIG, **environ: str
) -> subprocess.CompletedProcess[str]:
    configured = () if config is None else ("-c", config)
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ}
    return run_module("gunicorn", *configured, *arguments, APP, environ=given)


@pytest.mark.parametrize("config", CONFIGS)
def test_gunicorn_reads_the_settings(config: str) -> None:
    shown = _gunicorn(
        "--print-config",
        config=config,
        APP_ENV="test",
        WEB_CONCURRENCY="3",
        WEB_THREADS="7",
        BIND="127.0.0.1:1",
    ).stdout
    settings = {
        name.strip(): value.strip()
        for name, _, value in (line.partition("=") for line in shown.splitlines())
    }

    assert (
        settings.items()
        >= {
            "bind": "['127.0.0.1:1']",
            "workers": "3",
            "threads": "7",
            "worker_class": "api.server.gunicorn_worker.GunicornWorker",
            "preload_app": "False",
            "control_socket_disable": "True",
            "timeout": "30",
            "graceful_timeout": "30",
            "forwarded_allow_ips": "['127.0.0.1']",
            "forwarder_headers": "[]",
            "header_map": "drop",
            "umask": "63",
        }.items()
    )


def test_malformed_settings_are_refused() -> None:
    """Exit status 78 and the variable's name, without its value."""
    result = _gunicorn(WEB_THREADS="canary")

    assert result.returncode == 78
    assert result.stderr.startswith("refused: settings-invalid: WEB_THREADS")
    assert "canary" not in result.stderr + result.stdout


OPTIONS = (
    *("-b", "0.0.0.0:0", "--worker-class", "sync", "-t", "0", "--umask", "0"),
    *("--forwarded-allow-ips", "*", "--proxy-protocol", "--proxy-allow-from", "*"),
    *("--protocol", "uwsgi", "-e", "BIND=127.0.0.1:1", "--permit-obsolete-folding"),
)
DIFFERING = (
    "bind, forwarded_allow_ips, permit_obsolete_folding, protocol, proxy_allow_ips,"
    " proxy_protocol, raw_env, timeout, umask, worker_class"
)


@pytest.mark.parametrize(
    ("arguments", "environ", "named"),
    [
        (OPTIONS, {}, DIFFERING),
        (("-b", "127.0.0.1:0", "-b", "0.0.0.0:0"), {}, "bind"),
        ((), {"GUNICORN_CMD_ARGS": "--bind=0.0.0.0:0 --workers=9"}, "bind, workers"),
        (("--chdir", "/"), {"PYTHONPATH": str(ROOT)}, "chdir"),
    ],
)
def test_settings_that_the_guard_cannot_check_are_refused(
    arguments: tuple[str, ...], environ: dict[str, str], named: str
) -> None:
    """Exit status 78 before gunicorn listens."""
    result = _gunicorn(*arguments, APP_ENV="test", BIND="127.0.0.1:0", **environ)

    assert result.returncode == 78
    assert f"refused: gunicorn-overridden: {DIFFERENT}: {named};" in result.stderr
    assert "Listening" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["-b", "127.0.0.1:0"], ""),
        (["-b", "127.0.0.1:0", "-k", "gthread"], ""),
        (
            ["-b", "127.0.0.1:0", "-k", "api.server.gunicorn_worker.GunicornWorker"],
            "umask",
        ),
    ],
)
def test_gunicorn_without_our_settings_is_refused(
    arguments: list[str], names: str
) -> None:
    """The server ends; gunicorn's worker cannot end it with status 78."""
    result = _gunicorn(*arguments, config=None, APP_ENV="test")

    output = "".join((result.stderr + result.stdout).split())  # Lines are wrapped.
    assert result.returncode == 3
    assert "gunicorn-overridden:" in output
    assert names in output
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("config", [None, CONFIG])
def test_preloading_is_refused(config: str | None) -> None:
    """It would create an application before the guard has run."""
    result = _gunicorn("-b", "127.0.0.1:0", "--preload", config=config, APP_ENV="test")

    assert result.returncode in {3, 78}
    assert "refused: gunicorn-overridden: " in result.stderr
    assert "Listening" not in result.stderr + result.stdout


def test_the_refusal_names_the_variable_that_preloads() -> None:
    """The cure is not the command that was just run, which ends with status 78."""
    environ = {"APP_ENV": "test", "GUNICORN_CMD_ARGS": "--preload"}
    result = run_command(["serve"], {**environ, "PATH": os.environ["PATH"]})

    assert result.returncode == 78
    assert "; unset GUNICORN_CMD_ARGS, and run: hotwallet serve" in result.stderr


def test_another_server_is_refused() -> None:
    """The guard has not checked its listen address."""
    program = "from api.server.entrypoint import get_app; get_app()"
    result = run_python("-c", program, environ={"APP_ENV": "test"})

    assert result.returncode == 78
    assert result.stderr.startswith("refused: gunicorn-overridden: ")


@pytest.mark.parametrize(
    ("pid", "sockets"),
    [
        ("LISTEN_PID", "LISTEN_FDS"),  # systemd's
        ("GUNICORN_PID", "GUNICORN_FD"),  # of another master, after SIGUSR2
    ],
)
def test_inherited_sockets_are_refused(pid: str, sockets: str) -> None:
    """Their listen addresses are not in our settings."""
    program = f"""
import os, sys
os.environ["{pid}"] = f" {{os.getpid()}}"  # Which gunicorn reads as well.
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-c",
    "python:api.server.gunicorn_conf", "api.server.entrypoint:get_app()"])
"""
    result = run_python("-c", program, environ={"APP_ENV": "test", sockets: "1"})

    assert result.returncode == 78
    assert f"{DIFFERENT}: {sockets};" in result.stderr


@pytest.mark.parametrize("config", CONFIGS)
def test_equivalent_settings_are_accepted(tmp_path: Path, config: str) -> None:
    result = _gunicorn(
        *("-b", "127.0.0.1:0", "--pid", str(tmp_path / "pid")),
        config=config,
        APP_ENV="production",
        BIND="127.0.0.1:0",
    )

    assert result.returncode == 78
    assert "gunicorn-overridden" not in result.stderr
    assert "refused: kms-not-configured" in result.stderr


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("raise SystemExit(78)", 78),
        ("raise SystemExit(1)", 1),
        ("import os; os.kill(os.getpid(), 9)", 1),
    ],
)
def test_an_unsuccessful_guard_ends_the_server(program: str, status: int) -> None:
    """What is done meanwhile is done; after a successful one it goes on."""
    done = list[str]()
    run_guard(["sh", "-c", "exit 0"])
    guard = [sys.executable, "-c", program]
    with pytest.raises(SystemExit) as end:
        run_guard(guard, meanwhile=lambda: done.append("warm"))

    assert (status, done) == (end.value.code, ["warm"])


def test_production_without_a_key_does_not_start(tmp_path: Path) -> None:
    """The guard refuses before the first worker exists."""
    networks = tmp_path / "networks.toml"
    networks.write_text((ROOT / "docker" / "networks.example.toml").read_text())
    environ = {"APP_ENV": "production", "NETWORKS_FILE": str(networks)}
    with Server(environ, config=CONFIG) as server:
        status = server.process.wait(60)
        errors, output = server.errors(), server.output()

    assert status == 78
    assert "refused: kms-not-configured" in errors
    assert "Booting worker" not in output


@pytest.mark.parametrize(
    ("role", "backend", "loaded"),
    [
        (
            "all",
            "aws-kms",
            {"backends.aws_kms.backend", "api.http.administration", SIGNING},
        ),
        (
            "all",
            "google-cloud-kms",
            {"backends.google_cloud_kms.backend", "api.http.administration", SIGNING},
        ),
        ("admin", "pkcs11", {"backends.pkcs11", "api.http.administration"}),
        ("sign", "pkcs11", {"backends.pkcs11", *OF_SIGNING}),
        ("refunds", "pkcs11", set[str]()),
    ],
)
def test_warming_opens_nothing(role: str, backend: str, loaded: set[str]) -> None:
    """
    K16, P2: before the fork there are libraries, but no thread, file or device.

    Only the libraries that the role uses: each takes memory and time.
    """
    program = """
import os, threading
before = set(os.listdir("/proc/self/fd"))
from api.server.gunicorn_conf import warm
warm()
import sys
assert threading.active_count() == 1
assert set(os.listdir("/proc/self/fd")) == before
print(*sys.modules, sep="\\n")
"""
    environ = {
        "APP_ENV": "test",
        "SERVE_ROLE": role,
        "KEY_BACKEND": backend,
        "KMS_KEY_ID": "x" * 8,
        "ETH_HASH_BACKEND": "pysha3",  # As ``hotwallet serve`` sets it.
    }
    finished = run_python("-c", program, environ=environ)

    assert finished.returncode == 0, finished.stderr
    modules = set(finished.stdout.split())
    assert {"api.http.refunds", "backends.json_rpc", "backends.sql"} <= modules
    assert modules & OF_SOME_ROLES == loaded
    assert modules & NEVER_LOADED == set()


def test_sigterm_ends_the_guard_too(tmp_path: Path) -> None:
    began = tmp_path / "began"
    guard = (
        "import os, pathlib, time;"
        f"pathlib.Path({str(began)!r}).write_text(str(os.getpid()));"
        "time.sleep(60)"
    )
    program = f"""
import sys
from api.server.gunicorn_conf import run_guard
run_guard([sys.executable, "-c", {guard!r}])
"""
    master = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env={"APP_ENV": "test"}
    )
    try:
        assert eventually(lambda: began.exists() and began.read_text())
        master.terminate()

        assert master.wait(10) == 128 + signal.SIGTERM
        assert not Path(f"/proc/{began.read_text()}").exists()
    finally:
        master.kill()
        master.wait()
