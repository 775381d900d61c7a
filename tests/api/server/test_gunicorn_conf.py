"""gunicorn's settings, and the guard that it must ask."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from api.server.gunicorn_conf import run_guard
from tests.api.live_server import ROOT, Server
from tests.support.waiting import eventually


OTHERWISE = "these settings differ from api/server/gunicorn_conf.py"


def _gunicorn(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gunicorn", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    "config", ["python:api.server.gunicorn_conf", "docker/gunicorn.conf.py"]
)
def test_the_settings_that_count(config: str) -> None:
    """gunicorn itself reads the file as it was meant."""
    shown = _gunicorn(
        "-c",
        config,
        "--print-config",
        "api.server.entrypoint:get_app()",
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
            "worker_class": "api.server.gunicorn_worker.Worker",
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


def test_bad_settings_are_refused_in_a_line() -> None:
    """Exit status 78, the variable's name, and not its value."""
    result = _gunicorn(
        "-c",
        "python:api.server.gunicorn_conf",
        "api.server.entrypoint:get_app()",
        WEB_THREADS="canary",
    )

    assert result.returncode == 78
    assert result.stderr.startswith("refused: settings-invalid: WEB_THREADS")
    assert "canary" not in result.stderr + result.stdout


@pytest.mark.parametrize(
    ("arguments", "environ", "named"),
    [
        (["-b", "0.0.0.0:0"], {}, "bind"),
        (["-b", "127.0.0.1:0", "-b", "0.0.0.0:0"], {}, "bind"),
        (["--worker-class", "sync"], {}, "worker_class"),
        (["-t", "0", "--umask", "0"], {}, "timeout, umask"),
        (["--forwarded-allow-ips", "*"], {}, "forwarded_allow_ips"),
        ([], {"GUNICORN_CMD_ARGS": "--bind=0.0.0.0:0"}, "bind"),
        ([], {"GUNICORN_CMD_ARGS": "--workers=9"}, "workers"),
        (
            ["--proxy-protocol", "--proxy-allow-from", "*"],
            {},
            "proxy_allow_ips, proxy_protocol",
        ),
        (["--protocol", "uwsgi"], {}, "protocol"),
        (["-e", "BIND=127.0.0.1:1"], {}, "raw_env"),
        (["--chdir", "/"], {"PYTHONPATH": str(ROOT)}, "chdir"),
        (["--permit-obsolete-folding"], {}, "permit_obsolete_folding"),
    ],
)
def test_no_other_words_for_gunicorn(
    arguments: list[str], environ: dict[str, str], named: str
) -> None:
    """Nobody listens, or waits, past what the guard judges (status 78)."""
    result = _gunicorn(
        "-c",
        "python:api.server.gunicorn_conf",
        *arguments,
        "api.server.entrypoint:get_app()",
        APP_ENV="test",
        BIND="127.0.0.1:0",
        **environ,
    )

    assert result.returncode == 78
    assert f"refused: gunicorn-overridden: {OTHERWISE}: {named};" in result.stderr
    assert "Listening" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["-b", "127.0.0.1:0"], ""),
        (["-b", "127.0.0.1:0", "-k", "gthread"], ""),
        (["-b", "127.0.0.1:0", "-k", "api.server.gunicorn_worker.Worker"], "umask"),
    ],
)
def test_no_other_gunicorn(arguments: list[str], names: str) -> None:
    """
    Without our settings, the application refuses, and the server ends at once.

    gunicorn's worker has no way to end it with 78.
    """
    result = _gunicorn(*arguments, "api.server.entrypoint:get_app()", APP_ENV="test")

    told = "".join((result.stderr + result.stdout).split())  # Lines are wrapped.
    assert result.returncode == 3
    assert "gunicorn-overridden:" in told
    assert names in told
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--preload"], ["-c", "python:api.server.gunicorn_conf", "--preload"]]
)
def test_nothing_is_made_before_the_fork(arguments: list[str]) -> None:
    """``--preload`` makes no application, whose guard it would not have asked."""
    result = _gunicorn(
        "-b",
        "127.0.0.1:0",
        *arguments,
        "api.server.entrypoint:get_app()",
        APP_ENV="test",
    )

    assert result.returncode in {3, 78}
    assert "refused: gunicorn-overridden: " in result.stderr
    assert "Listening" not in result.stderr + result.stdout


def test_no_other_server() -> None:
    """Nor is it made for whoever else asks, since nobody judged where he listens."""
    result = subprocess.run(
        [sys.executable, "-c", "from api.server.entrypoint import get_app; get_app()"],
        cwd=ROOT,
        env={"APP_ENV": "test"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert result.returncode == 78
    assert result.stderr.startswith("refused: gunicorn-overridden: ")


@pytest.mark.parametrize(
    ("pid", "sockets"),
    [
        ("LISTEN_PID", "LISTEN_FDS"),  # systemd's
        ("GUNICORN_PID", "GUNICORN_FD"),  # of another master, after SIGUSR2
    ],
)
def test_no_socket_of_others(pid: str, sockets: str) -> None:
    """Nor is a socket inherited: where it listens is not in our settings."""
    program = f"""
import os, sys
os.environ["{pid}"] = f" {{os.getpid()}}"  # Which gunicorn reads as well.
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-c",
    "python:api.server.gunicorn_conf", "api.server.entrypoint:get_app()"])
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"APP_ENV": "test", sockets: "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert result.returncode == 78
    assert f"{OTHERWISE}: {sockets};" in result.stderr


@pytest.mark.parametrize(
    "config", ["python:api.server.gunicorn_conf", "docker/gunicorn.conf.py"]
)
def test_what_only_looks_otherwise(tmp_path: Path, config: str) -> None:
    """The same address once more, another way to our file, and a PID file are fine."""
    result = _gunicorn(
        "-c",
        config,
        "-b",
        "127.0.0.1:0",
        "--pid",
        str(tmp_path / "pid"),
        "api.server.entrypoint:get_app()",
        APP_ENV="production",
        BIND="127.0.0.1:0",
    )

    assert result.returncode == 78
    assert "gunicorn-overridden" not in result.stderr
    assert "refused: kms-not-configured" in result.stderr


def test_the_guard_lets_pass() -> None:
    """A guard that is content stops nobody."""
    run_guard([sys.executable, "-c", ""])


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("raise SystemExit(78)", 78),
        ("raise SystemExit(1)", 1),
        ("import os; os.kill(os.getpid(), 9)", 1),
    ],
)
def test_the_guards_word_is_final(program: str, status: int) -> None:
    """Whatever the guard ends with, other than success, ends the server."""
    with pytest.raises(SystemExit) as end:
        run_guard([sys.executable, "-c", program])

    assert status == end.value.code


def test_production_without_a_key_does_not_start(tmp_path: Path) -> None:
    """The guard refuses before the first worker exists; the status is its own."""
    networks = tmp_path / "networks.toml"
    networks.write_text((ROOT / "docker" / "networks.example.toml").read_text())
    environ = {"APP_ENV": "production", "NETWORKS_FILE": str(networks)}
    with Server(environ, config="python:api.server.gunicorn_conf") as server:
        status = server.process.wait(30)
        errors, output = server.errors(), server.output()

    assert status == 78
    assert "refused: kms-not-configured" in errors
    assert "Booting worker" not in output


def test_works_while_the_guard_does() -> None:
    """What takes time is done beside the guard, whatever the guard says then."""
    done = list[str]()

    with pytest.raises(SystemExit):
        run_guard(
            [sys.executable, "-c", "raise SystemExit(78)"],
            meanwhile=lambda: done.append("warm"),
        )

    assert done == ["warm"]


@pytest.mark.parametrize("use_kms", ["true", "false"])
def test_warming_opens_nothing(use_kms: str) -> None:
    """Before the fork there are libraries, and no thread, file or device (K16, P2)."""
    program = """
import os, threading
before = set(os.listdir("/proc/self/fd"))
from api.server.gunicorn_conf import warm
warm()
import sys
device = "backends.aws_kms" if os.environ["USE_KMS"] == "true" else "backends.pkcs11"
assert {"web3", "sqlalchemy", "api.http.app", device} <= set(sys.modules)
assert threading.active_count() == 1
assert set(os.listdir("/proc/self/fd")) == before
print("warm")
"""
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"APP_ENV": "test", "USE_KMS": use_kms, "KMS_KEY_ID": "x" * 8},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.stdout == "warm\n", finished.stderr


def test_sigterm_ends_the_guard_too(tmp_path: Path) -> None:
    """Whoever is stopped while the guard works leaves nobody behind."""
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
