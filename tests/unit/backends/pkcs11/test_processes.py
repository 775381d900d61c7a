"""Threads, forks, exits and neighbours: what takes a process down, if anything."""

import os
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.pkcs11 import PKCS11Backend
from signer.crypto.der import parse_public_key
from signer.ports import KeyId
from softhsm.layout import CONF_VARIABLE
from tests.fixtures.softhsm import Program


ROOT = Path(__file__).parents[4]


def test_threads_sign_at_the_same_time(softhsm_program: Program) -> None:
    """P1: 16 threads for 3 s, without one error, and no crash."""
    finished = softhsm_program("in-threads", "16", "3")

    assert (finished.stderr, finished.returncode) == ("", 0)
    assert int(finished.stdout) > 16


@pytest.mark.soak
def test_threads_sign_for_a_minute(softhsm_program: Program) -> None:
    """P1, G15: 16 threads for 60 s."""
    finished = softhsm_program("in-threads", "16", "60")

    assert (finished.stderr, finished.returncode) == ("", 0)


@pytest.mark.soak
def test_workers_sign_for_a_minute(softhsm_program: Program) -> None:
    """G15: 4 processes of 4 threads for 60 s, all on one token."""
    with ThreadPoolExecutor(4) as pool:
        finished = list(
            pool.map(lambda _: softhsm_program("in-threads", "4", "60"), range(4))
        )

    assert [(each.stderr, each.returncode) for each in finished] == [("", 0)] * 4


def test_children_of_a_process_that_signed_sign_too(softhsm_program: Program) -> None:
    """P2: with ``library.reset_on_fork = true``, each of 4 children opens afresh."""
    finished = softhsm_program("in-children", "4")

    assert (finished.stderr, finished.returncode) == ("", 0)


def test_children_refuse_a_module_that_does_not_notice_forks(
    softhsm_program: Program, softhsm_environ: dict[str, str], tmp_path: Path
) -> None:
    """P2: an inherited session that "works by luck" is refused, in plain words."""
    conf = tmp_path / "softhsm2.conf"
    text = Path(softhsm_environ[CONF_VARIABLE]).read_text()
    conf.write_text(text.replace("reset_on_fork = true", "reset_on_fork = false"))

    finished = softhsm_program("in-children", "2", **{CONF_VARIABLE: str(conf)})

    assert finished.returncode == 1
    assert (
        finished.stderr.count("BackendError: the PKCS#11 module was initialized") == 2
    )


@pytest.mark.parametrize("touch", ["before the fork", "after the fork"])
def test_gunicorn_workers_all_sign(
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
    softhsm_environ: dict[str, str],
    tmp_path: Path,
    touch: str,
) -> None:
    """P2: 4 preloaded workers sign, whether or not their master touched the token."""
    environ = {**os.environ, **softhsm_environ, "PKCS11_KEY_ID": softhsm_key}
    if touch == "before the fork":
        environ["SIGN_EARLY"] = "yes"
    address = parse_public_key(softhsm.public_key(softhsm_key)).address
    log = tmp_path / "log"
    with log.open("w") as file:
        gunicorn = subprocess.Popen(_gunicorn(), cwd=ROOT, env=environ, stderr=file)
    try:
        answers = _answers_of(4, _url(log))
    finally:
        gunicorn.terminate()
        status = gunicorn.wait(30)

    assert set(answers.values()) == {address}
    assert status == 0
    assert "Traceback" not in log.read_text()


def test_exits_cleanly_while_threads_sign(softhsm_program: Program) -> None:
    """P13: live sessions and busy daemon threads do not crash the exit."""
    for _ in range(3):
        finished = softhsm_program("leave-in-a-hurry")

        assert (finished.stderr, finished.returncode) == ("", 0)


def test_starts_while_another_process_makes_and_destroys_keys(
    softhsm_program: Program, softhsm_environ: dict[str, str], softhsm_key: KeyId
) -> None:
    """P11: cold starts succeed beside a process that churns objects."""
    churn = subprocess.Popen(
        [sys.executable, "-m", "tests.fixtures.softhsm_programs", "churn"],
        env={**os.environ, **softhsm_environ, "PKCS11_KEY_ID": softhsm_key},
        stdout=subprocess.PIPE,
    )
    try:
        assert churn.stdout is not None
        churn.stdout.readline()
        finished = [softhsm_program("once") for _ in range(3)]
        still_churning = churn.poll() is None
    finally:
        churn.kill()
        churn.communicate()

    assert [(each.stderr, each.returncode) for each in finished] == [("", 0)] * 3
    assert still_churning


def _gunicorn() -> list[str]:
    return [
        sys.executable,
        *("-m", "gunicorn", "--preload", "--workers", "4", "--bind", "127.0.0.1:0"),
        *("--no-control-socket", "tests.fixtures.softhsm_programs:get_app()"),
    ]


def _url(log: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if "Listening at: " in line:
                return line.split("Listening at: ")[1].split()[0]
        time.sleep(0.05)
    raise TimeoutError(log.read_text())


def _answers_of(workers: int, url: str) -> dict[str, str]:
    """Return what each of so many workers answers: its pid, and an address."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(_: int) -> tuple[str, str]:
        with opener.open(url, timeout=10) as response:
            pid, address = response.read().decode().split()
        return pid, address

    answers: dict[str, str] = {}
    deadline = time.monotonic() + 30
    while len(answers) < workers and time.monotonic() < deadline:
        with ThreadPoolExecutor(16) as pool:
            answers.update(pool.map(ask, range(32)))
    assert len(answers) == workers
    return answers
