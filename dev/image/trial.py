"""
Pays a refund with the programs of the image.

The three roles run inside, each as compose.yaml runs it: as the user of the image,
without privileges, on a read-only root.  The chain and the emulator of KMS run outside.
"""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from dev.anvil import ROOT
from dev.demo import Progress, pay_once
from dev.ports import free_port
from dev.stack import (
    Program,
    Stack,
    await_start,
    hotwallet,
    is_ready,
    running_stack,
)
from signer.config.settings import CREDENTIALS


_SCRIPT = ROOT / "dev" / "image" / "run.sh"


def pay_in_image(tree: Path, progress: Progress) -> None:
    """
    Run the roles of the image in *tree*, and pay a refund.

    Raises:
        DemoError: The refund was not paid once.
        RuntimeError: A command or process of the image failed.
    """
    # The sandbox mounts the folder below its own /tmp.
    with tempfile.TemporaryDirectory(prefix="hotwallet-image-", dir="/tmp") as folder:
        home = Path(folder)
        program = Program(("/bin/sh", str(_SCRIPT), str(tree), str(home)))
        progress.step(hotwallet({}, "--version", program=program))
        with running_stack(
            home,
            use_kms=True,
            program=program,
            settings={"SERVE_ROLE": "admin", "WEB_CONCURRENCY": "1"},
            report=lambda text: progress.step(f"{text} ..."),
        ) as stack:
            progress.step("The worker and the admin process of the image run.")
            for command in ("config check", "guard", "health --ready"):
                stack.command(*command.split())
                progress.detail(command, "ok")
            _pay_through_refunds(stack, progress)


def _pay_through_refunds(stack: Stack, progress: Progress) -> None:
    """Start the role that accepts refunds, without credentials, and ask it to pay."""
    environ = {
        **_without_credentials(stack.environ),
        "SERVE_ROLE": "refunds",
        "BIND": f"127.0.0.1:{free_port()}",
    }
    url = f"http://{environ['BIND']}"
    with ExitStack() as cleanup:
        process = cleanup.enter_context(
            stack.service("serve", log="refunds", environ=environ)
        )
        await_start(process, stack.home / "refunds.log", lambda: is_ready(url))
        progress.step("The process that accepts refunds runs, without a key.")
        pay_once(progress, replace(stack, url=url))
    if process.poll() != 0:
        raise RuntimeError(f"SIGTERM ended it with status {process.poll()}")


def _without_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in CREDENTIALS}
