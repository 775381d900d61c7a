"""The library that JavaScript programs use for the same task, in one node process."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.devices import StandIn
from dev.anvil import ROOT


LIBRARY = "@cuonghx.gu-tech/ethers-aws-kms-signer"

_MISSING = f"{LIBRARY} is not installed: run `make node_modules/.ready`"


@contextlib.contextmanager
def javascript_signer(
    stand_in: StandIn,
) -> Iterator[Callable[[int, float], float] | str]:
    """
    Yield what measures transactions a second at a concurrency, for some seconds.

    Yields a text instead, which says what is missing.  ``NODE_PATH`` is searched too.
    """
    node = shutil.which("node")
    folders = [ROOT / "node_modules", *map(Path, _node_path())]
    if node is None or not any((folder / LIBRARY).is_dir() for folder in folders):
        yield _MISSING if node else "node is not installed"
        return
    with subprocess.Popen(
        [node, str(ROOT / "bench" / "kms_signer.cjs"), stand_in.key_id],
        env={**os.environ, **stand_in.environ()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        questions, answers = process.stdin, process.stdout

        def measure(concurrency: int, seconds: float) -> float:
            questions.write(f"{concurrency} {seconds}\n")
            questions.flush()
            return float(answers.readline())

        try:
            yield measure
        finally:
            questions.close()
            process.terminate()


def _node_path() -> list[str]:
    return [part for part in os.environ.get("NODE_PATH", "").split(os.pathsep) if part]
