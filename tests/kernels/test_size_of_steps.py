"""Kernels are readable steps: no function is long, none takes many values that have no name in common."""

import ast
from collections.abc import Iterator
from pathlib import Path

import flashbench.kernels

# Parameters that are structs: views of the call, tiles, matrices, draws. `typingctx` is Numba's.
STRUCTS = {
    "call", "scratch", "features", "product", "queries", "keys", "rows", "row", "key", "part", "task",
    "piece", "work", "sequence", "matrix", "source", "target", "x", "sums", "b", "c", "k", "q", "v", "draws",
    "typingctx",
}  # fmt: skip
MOST_LINES, MOST_PARAMETERS = 80, 8


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    root = Path(flashbench.kernels.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(root)}: {node.name}", node


def test_functions_of_the_kernels_are_short() -> None:
    found = dict(functions())
    assert len(found) > 100
    for name, node in found.items():
        assert node.end_lineno is not None
        assert node.end_lineno - node.lineno + 1 <= MOST_LINES, name
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        assert len({argument.arg for argument in arguments} - STRUCTS) <= MOST_PARAMETERS, name
