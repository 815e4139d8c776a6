"""Why an engine is wrong: failed cases of `verify` become findings, a few for each engine."""

from __future__ import annotations

from flashbench.studies.audit.explain import audit
from flashbench.studies.audit.findings import Explanation, Finding, Kind

__all__ = ["Explanation", "Finding", "Kind", "audit"]
