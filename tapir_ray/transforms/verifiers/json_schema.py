"""Verifier of JSON answers, for rows with a column `json_schema`: an object, or its text.

The JSON is the whole answer, or its only fenced block. The form is graded, not whether the values are right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tapir_ray.errors import InputError
from tapir_ray.transforms.verifiers import RIGHT, WRONG, meta_of

_BLOCK = re.compile(r"^[ \t]*```(?:json)?[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL | re.IGNORECASE)


def json_schema(row: Mapping[str, Any], answer: str) -> float | None:
    """Returns 10 if the answer is JSON of the row's schema, 1 if not; None for a row without a schema.

    Raises ValueError for a schema that is none. References to other files are not followed.
    """
    schema = meta_of(row).get("json_schema")
    if schema is None or schema == "":
        return None
    blocks = _BLOCK.findall(answer)
    if len(blocks) > 1:
        return None
    validator = _validator(schema)
    try:
        value = json.loads(blocks[0] if blocks else answer)
    except (ValueError, RecursionError):
        return WRONG
    return RIGHT if validator.is_valid(value) else WRONG


def _check() -> None:
    """Raises InputError without the package."""
    _packages()


json_schema.check = _check  # type: ignore[attr-defined]


def _validator(schema: Any) -> Any:
    jsonschema, referencing = _packages()
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except (ValueError, TypeError, jsonschema.SchemaError) as error:
        raise ValueError(f"the column json_schema holds no JSON schema ({str(error).splitlines()[0][:200]})") from error
    # An empty registry: without one, the package would fetch references from the network.
    return kind(schema, registry=referencing.Registry())


def _packages() -> tuple[Any, Any]:
    try:
        import jsonschema
        import referencing
    except ImportError as error:
        raise InputError(
            f"the verifier json_schema needs the package jsonschema ({error}): pip install 'tapir-ray[verifiers]'"
        ) from error
    return jsonschema, referencing
