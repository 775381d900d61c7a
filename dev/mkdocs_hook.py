"""
A hook of MkDocs that adds the script that draws diagrams to the site.

The theme would load it from another host.
"""

from importlib import import_module
from pathlib import Path
from typing import Any


_MERMAID = "node_modules/@mermaid-js/tiny/dist/mermaid.tiny.js"


def on_files(files: Any, config: Any) -> Any:
    """Add the script to *files*, the files of the site (MkDocs calls this)."""
    files_module = import_module("mkdocs.structure.files")  # Only in .venv-docs.

    script = Path(config.config_file_path).parent / _MERMAID
    generate = files_module.File.generated
    files.append(generate(config, "assets/mermaid.js", abs_src_path=str(script)))
    return files
