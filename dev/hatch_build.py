"""A hook of hatchling that puts the SBOM into the wheel, if `make dist` made one."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


SBOM = "build/hotwallet.cdx.json"
"""Where ``dev.dist`` writes it, below the root of the project."""


class SBOMHook(BuildHookInterface[Any]):
    """Adds the file to ``.dist-info/sboms`` (PEP 770)."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the file to hatchling, which calls this before it builds a wheel."""
        if (Path(self.root) / SBOM).is_file():
            build_data.setdefault("sbom_files", []).append(SBOM)
