"""The schemas of file formats that others publish, as check-jsonschema ships them."""

import json
from importlib import resources
from typing import Any


def schema_errors(name: str, document: Any) -> list[str]:
    """Return what is wrong with *document*, one line each, by the schema *name*."""
    # Importing it takes a second in each process that collects tests.
    from jsonschema.validators import validator_for  # noqa: PLC0415

    folder = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    errors = validator_for(schema)(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in errors]
