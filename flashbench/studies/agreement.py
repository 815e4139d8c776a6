"""Whether the views of one call's memory agree: allocated, computed beforehand, and given by the system."""

from __future__ import annotations

from flashbench.results.record import Memory

# Rounding to pages, thread stacks and a library's own bookkeeping stay below these.
SHARE = 0.05
BYTES = 64 * 1024


def expected_disagrees(memory: Memory) -> bool:
    """Whether the workspace computed beforehand is not the one measured.

    >>> from flashbench.results.record import Memory
    >>> sizes = {"input_bytes": 0, "output_bytes": 0}
    >>> expected_disagrees(Memory(workspace_peak_bytes=4 << 20, expected_workspace_bytes=5 << 20, **sizes))
    True
    """
    expected = memory.expected_workspace_bytes
    return expected is not None and abs(expected - memory.workspace_peak_bytes) > _allowed(memory)


def resident_disagrees(memory: Memory) -> bool:
    """Whether the process grew by something else than the workspace.

    Its growth may or may not include the outputs: those can take the place of an earlier call's. So it
    agrees anywhere between the workspace alone and the workspace with the outputs.
    """
    resident = memory.resident_delta_bytes
    if resident is None or memory.instrument == "resident":  # then the workspace comes from it
        return False
    lowest = memory.workspace_peak_bytes - _allowed(memory)
    highest = memory.workspace_peak_bytes + memory.output_bytes + _allowed(memory)
    return not lowest <= resident <= highest


def _allowed(memory: Memory) -> float:
    return max(BYTES, SHARE * memory.workspace_peak_bytes)
