"""The published JSON Schema of a results file, made from the records themselves."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from flashbench.results.record import SCHEMA_VERSION, Results


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of what `results.store` writes; docs/results.schema.json holds it."""
    schema = msgspec.json.schema(Results)
    schema["$defs"]["Results"]["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"flashbench results, schema_version {SCHEMA_VERSION}",
        **schema,
    }


def json_schema_text() -> str:
    """`json_schema` as the text of docs/results.schema.json."""
    return json.dumps(json_schema(), indent=2) + "\n"


if __name__ == "__main__":  # python -m flashbench.results.schema > docs/results.schema.json
    print(json_schema_text(), end="")
