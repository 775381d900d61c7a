"""Threads, forks and exits do not crash a process, nor do other processes."""

import os
import re
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.pkcs11 import PKCS11Backend
from signer.crypto.der import parse_public_key
from signer.ports.key_backend import KeyId
from softhsm.layout import CONF_VARIABLE
from tests.fixtures.softhsm import Program
from tests.support.waiting import eventually


ROOT = Path(__file__).parents[4]


def test_threads_sign_at_the_same_time(softhsm_program: Program) -> None:
    """P1: 16 threads for 1 s, without an error or crash."""
    finished = softhsm_program("in-threads", "16", "1")

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


def test_children_of_a_process_that_signed_can_sign(softhsm_program: Program) -> None:
    """P2: with ``library.reset_on_fork = true``, each of 4 children opens the token."""
    finished = softhsm_program("in-children", "4")

    assert (finished.stderr, finished.returncode) == ("", 0)


def test_children_refuse_a_module_that_ignores_forks(
    softhsm_program: Program, softhsm_environ: dict[str, str], tmp_path: Path
) -> None:
    """P2: the error explains that the module was initialised before the fork."""
    conf = tmp_path / "softhsm2.conf"
    text = Path(softhsm_environ[CONF_VARIABLE]).read_text()
    conf.write_text(text.replace("reset_on_fork = true", "reset_on_fork = false"))

    finished = softhsm_program("in-children", "2", **{CONF_VARIABLE: str(conf)})

    assert finished.returncode == 1
    assert (
        finished.stderr.count("BackendError: the PKCS#11 module was initialized") == 2
    )


def test_gunicorn_workers_all_sign(
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
    softhsm_environ: dict[str, str],
    tmp_path: Path,
) -> None:
    """P2: 4 preloaded workers sign after their master has used the token."""
    used = {"PKCS11_KEY_ID": softhsm_key, "SIGN_EARLY": "yes"}
    environ = {**os.environ, **softhsm_environ, **used}
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
    """P13: open sessions and busy daemon threads do not crash the exit."""
    for _ in range(2):
        finished = softhsm_program("exit-while-signing")

        assert (finished.stderr, finished.returncode) == ("", 0)


def test_starts_while_another_process_makes_and_destroys_keys(
    softhsm_program: Program, softhsm_environ: dict[str, str], softhsm_key: KeyId
) -> None:
    """P11: a start succeeds while another process changes the token."""
    churn = subprocess.Popen(
        [sys.executable, "-m", "tests.fixtures.softhsm_programs", "churn"],
        env={**os.environ, **softhsm_environ, "PKCS11_KEY_ID": softhsm_key},
        stdout=subprocess.PIPE,
    )
    try:
        assert churn.stdout is not None
        churn.stdout.readline()
        finished = [softhsm_program("once") for _ in range(2)]
        still_churning = churn.poll() is None
    finally:
        churn.kill()
        churn.communicate()

    assert [(each.stderr, each.returncode) for each in finished] == [("", 0)] * 2
    assert still_churning


def _gunicorn() -> list[str]:
    return [
        sys.executable,
        *("-m", "gunicorn", "--preload", "--workers", "4", "--bind", "127.0.0.1:0"),
        *("--no-control-socket", "tests.fixtures.softhsm_programs:get_app()"),
    ]


def _url(log: Path) -> str:
    found = eventually(lambda: re.search(r"Listening at: (\S+)", log.read_text()), 30)
    assert found, log.read_text()
    return found[1]


def _answers_of(workers: int, url: str) -> dict[str, str]:
    """Return the pid and the address of each of *workers*."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(_: int) -> tuple[str, str]:
        with opener.open(url, timeout=10) as response:
            pid, address = response.read().decode().split()
        return pid, address

    answers: dict[str, str] = {}

    def all_answered() -> bool:
        with ThreadPoolExecutor(16) as pool:
            answers.update(pool.map(ask, range(32)))
        return len(answers) == workers

    assert eventually(all_answered, 30)
    return answers
