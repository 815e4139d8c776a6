"""How many instructions does the softmax take for a vector of scores? Counted in its machine code.

    python benchmarks/instructions.py

The pass that makes p = exp2(s - row_max) of a tile is a loop over whole vectors. Of that loop with the fewest
instructions for a vector, the table has all instructions, those on vectors, and those that compute. The
maximum, one more, is taken in a pass of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numba import njit

from flashbench.codegen.pointers import at, pointer
from flashbench.kernels.tile.softmax import online_softmax

_MOVES = ("vmov", "kmov", "vbroadcast")
_PER_VECTOR = "vscalef"  # one in each exponential of AVX-512


@njit
def softmax(zero, scores, state, lanes, keys):
    row_max = pointer(zero, state)
    lane_state = (row_max, at(row_max, lanes), at(row_max, 2 * lanes))
    online_softmax(pointer(zero, scores), lanes, keys, lanes, lane_state, None)


def loops(assembly: str) -> Iterator[list[str]]:
    """The instructions of each loop without another loop's label inside."""
    lines = [line.strip() for line in assembly.splitlines()]
    labels = {line[:-1]: place for place, line in enumerate(lines) if re.fullmatch(r"\.LBB\w+:", line)}
    for place, line in enumerate(lines):
        jump = re.fullmatch(r"j\w+\s+(\.LBB\w+)", line)
        start = labels.get(jump[1], place) if jump else place
        inside = lines[start + 1 : place + 1]
        if start < place and not any(x.endswith(":") for x in inside):
            yield [x for x in inside if x and not x.startswith((".", "#"))]


def main() -> None:
    print("| | instructions | on vectors | that compute |\n|---|---|---|---|")
    for dtype in (np.float32, np.float64):
        scores, state = np.zeros(64 * 64, dtype), np.zeros(64 * 3, dtype)
        softmax(dtype(0), scores.ctypes.data, state.ctypes.data, 64, 64)
        counts = []
        for body in loops(softmax.inspect_asm(softmax.signatures[-1])):
            vectors = sum(x.startswith(_PER_VECTOR) for x in body)
            on_vectors = [x for x in body if x.startswith(("v", "k"))]
            computing = [x for x in on_vectors if not x.startswith(_MOVES)]
            if vectors:
                counts.append([len(x) / vectors for x in (body, on_vectors, computing)])
        if not counts:
            raise SystemExit(
                "the loop is recognised by an instruction of AVX-512, which this CPU does not have"
            )
        print(f"| {np.dtype(dtype)} |", " | ".join(f"{x:g}" for x in min(counts)), "|")


main()
