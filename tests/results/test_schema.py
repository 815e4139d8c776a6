"""The published JSON Schema is the records' own."""

from __future__ import annotations

from pathlib import Path

from flashbench.results.schema import json_schema, json_schema_text


def test_the_committed_schema_is_current(repository: Path) -> None:
    committed = (repository / "docs" / "results.schema.json").read_text()
    assert committed == json_schema_text(), (
        "python -m flashbench.results.schema > docs/results.schema.json brings it up to date"
    )


def test_the_schema_fixes_the_version_and_allows_no_other_field() -> None:
    results = json_schema()["$defs"]["Results"]
    assert results["properties"]["schema_version"]["const"] == 2
    assert results["additionalProperties"] is False
