"""
Hooks of hatchling: the wheel has one top-level package, and the SBOM of `make dist`.

In a checkout the packages are ``signer``, ``backends``, ``softhsm`` and ``api``.  An
application has folders with such names, so the wheel has them below ``hotwallet``
(docs/adr/0095).
"""

import ast
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


SBOM = "build/hotwallet.cdx.json"
"""Where ``dev.dist`` writes it, below the root of the project."""

PACKAGES = ("signer", "backends", "softhsm", "api")

_ANY = "|".join(PACKAGES)
_IMPORT = re.compile(rf"^(\s*(?:from|import) )(?=(?:{_ANY})[. ])", re.MULTILINE)
# What names one of our modules, perhaps with an attribute: "api.cli.audit:audit".
# Names of loggers stay as they are, because operators search for them.
_NAME = re.compile(
    rf"""(?<!get_logger\()(?P<quote>["'])(?P<prefix>python:)?"""
    rf"""(?P<module>(?:{_ANY})(?:\.[a-z_0-9]+)+)"""
    r"""(?P<attribute>\.[A-Z]\w+|:\w+(?:\(\))?)?(?P=quote)"""
)


class WheelHook(BuildHookInterface[Any]):
    """Adds the packages, renamed, and the SBOM as ``.dist-info/sboms`` (PEP 770)."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files to hatchling, which calls this before it builds a wheel."""
        root = Path(self.root)
        if (root / SBOM).is_file():
            build_data.setdefault("sbom_files", []).append(SBOM)
        if version == "editable":  # It imports the checkout.
            return
        self._folder = Path(tempfile.mkdtemp(prefix="hotwallet-wheel-"))
        for path, target in renamed(root, self._folder):
            build_data["force_include"][str(path)] = target

    def finalize(self, version: str, build_data: dict[str, Any], artifact: str) -> None:
        """Remove what ``initialize`` wrote."""
        if version != "editable":
            shutil.rmtree(self._folder)


def renamed(root: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """Write the package of the wheel to *folder*; yield each file and its place."""
    sources = {"": root / "dev" / "wheel" / "hotwallet"}
    sources |= {f"{name}/": root / name for name in PACKAGES}
    for prefix, source in sources.items():
        for path in sorted(source.rglob("*")):
            if path.is_dir() or "__pycache__" in path.parts:
                continue
            place = prefix + path.relative_to(source).as_posix()
            target = path
            if path.suffix in {".py", ".pyi"}:
                target = folder / place
                target.parent.mkdir(parents=True, exist_ok=True)
                text = rename(path.read_text(encoding="utf-8"), root)
                target.write_text(text, encoding="utf-8")
            yield target, f"hotwallet/{place}"


def rename(source: str, root: Path) -> str:
    """
    Return *source* with the names of our packages below ``hotwallet``.

    Lines keep their numbers, so tracebacks name the lines of the repository.

    Raises:
        ValueError: It uses the name that ``import signer.x`` binds, which changes.
    """
    tree = ast.parse(source)
    bound = {
        each.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for each in node.names
        if each.asname is None
    } & {*PACKAGES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in bound:
            raise ValueError(f"write `from {node.id} import ...` (line {node.lineno})")

    def below(match: re.Match[str]) -> str:
        path = root.joinpath(*match["module"].split("."))
        if not path.is_dir() and not path.with_suffix(".py").is_file():
            return match[0]
        quote, prefix, attribute = (
            match[name] or "" for name in ("quote", "prefix", "attribute")
        )
        return f"{quote}{prefix}hotwallet.{match['module']}{attribute}{quote}"

    return _NAME.sub(below, _IMPORT.sub(r"\1hotwallet.", source))
