"""Builds the image, checks its files, and pays a refund with it."""

import subprocess
import sys
from collections.abc import Iterable

from dev.anvil import ROOT
from dev.demo import DemoError, Progress
from dev.image.build import (
    IMAGE,
    SUITE,
    build_base,
    build_image,
    image_configuration,
    require_tools,
    unpacked,
)
from dev.image.checks import problems, size_megabytes, size_problems
from dev.image.trial import pay_in_image


GUIDE = ROOT / "docs" / "how-to" / "deploy.md"


def main() -> int:
    """Return 0 if the image was built, and is as promised."""
    progress = Progress()
    try:
        require_tools()
        progress.step(f"The base: packages of Debian {SUITE} ...")
        build_base()
        progress.step("The image: docker/Dockerfile on it ...")
        build_image()
        with unpacked() as tree:
            progress.step("Its files ...")
            _require_none(problems(tree, image_configuration()))
            size = size_megabytes(tree)
            progress.detail("size", f"{size:.0f} MB")
            _require_none(size_problems(size, GUIDE.read_text(encoding="utf-8")))
            pay_in_image(tree, progress)
    except (DemoError, RuntimeError, subprocess.CalledProcessError) as e:
        print(f"\nmake image failed: {e}", file=sys.stderr)
        return 1
    progress.step(f"Done: {IMAGE} paid one refund.")
    return 0


def _require_none(found: Iterable[str]) -> None:
    if lines := [*found]:
        raise RuntimeError("\n".join(["the image is not as promised:", *lines]))


if __name__ == "__main__":
    sys.exit(main())
