"""Builds the image, checks its files, and pays a refund with it."""

import subprocess
import sys

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
from dev.image.checks import problems, size_megabytes
from dev.image.trial import pay_in_image


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
            progress.detail("size", f"{size_megabytes(tree):.0f} MB")
            pay_in_image(tree, progress)
    except (DemoError, RuntimeError, subprocess.CalledProcessError) as e:
        print(f"\nmake image failed: {e}", file=sys.stderr)
        return 1
    progress.step(f"Done: {IMAGE} paid one refund.")
    return 0


def _require_none(found: list[str]) -> None:
    if found:
        raise RuntimeError("\n".join(["the image is not as promised:", *found]))


if __name__ == "__main__":
    sys.exit(main())
