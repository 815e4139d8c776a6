"""The NEON path on a machine without NEON: its code is generated, not run."""

import os
import subprocess
import sys

SCRIPT = """
from functools import partial
import platform
platform.machine = lambda: "aarch64"
import llvmlite.binding as llvm
from llvmlite import ir
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
from flashbench.kernels.products import dot_bf16, multiply, pack, pairs, weights
from flashbench.kernels.products.fma import BY_FMA
from flashbench.kernels.row import dropout as row_dropout
from flashbench.kernels.row import features as row_features
from flashbench.kernels.row import softmax as row_softmax
from flashbench.kernels.maths import dots, rows
from flashbench.kernels.tile import softmax
from flashbench.codegen.elements import ELEMENTS
from flashbench.codegen import elements
from flashbench.codegen.isa import ISA
assert ISA.name == "neon"
FLOAT16, BFLOAT16 = ELEMENTS[elements.FLOAT16], ELEMENTS[elements.BFLOAT16]
TRIPLE = "aarch64-unknown-linux-gnu"
WRITERS = [
    rows._scale, rows._fill, softmax._score_gradients, row_softmax._softmax_row,
    row_softmax._natural_softmax_row, row_softmax._mean_gradient, row_softmax._gradient_row,
    row_features._softcap_row, row_features._softcap_gradient_row,
    row_features._scale_row, row_features._alibi_row, row_features._add_mask_row,
    row_features._clear_lowest_row, row_features._hide_row, row_dropout._drop_row,
    row_dropout._drop_gradient_row,
]
PAIR_WRITERS = [
    pairs._pack_pairs, pairs._pair_rows, pairs._pad_rows,
    partial(weights._weights, kind=weights.ROUNDED), weights._key_weights,
]
SINGLE, DOUBLE = ir.FloatType(), ir.DoubleType()
for element, stored in ((SINGLE, SINGLE), (DOUBLE, DOUBLE), (SINGLE, FLOAT16), (SINGLE, BFLOAT16)):
    module = ir.Module("neon")
    module.triple = TRIPLE
    main = ir.Function(module, ir.FunctionType(ir.VoidType(), []), "main")
    builder = ir.IRBuilder(main.append_basic_block())
    written = [
        multiply._product(builder, BY_FMA, [stored, element], element),
        multiply._product(builder, BY_FMA, [element, stored], element),
        pack._pack(builder, stored, element), rows._finite(builder, stored),
        rows._row_dots(builder, stored, element), rows._put(builder, stored, element),
        rows._put(builder, element, stored), dots._products(builder, stored, element),
    ]
    if stored == BFLOAT16:
        written += [write(builder) for write in PAIR_WRITERS]
        written.append(multiply._product(builder, dot_bf16.BY_EMULATED_DOT, [stored, stored], element))
    for scaled in (False, True):
        written.append(softmax._online_softmax(builder, element, scaled=scaled))
        written.append(softmax._probabilities(builder, element, scaled=scaled))
    for made in [*written, *(write(builder, element) for write in WRITERS)]:
        made.linkage = "external"
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(cpu="generic", opt=3)
    assembly = machine.emit_assembly(parsed)
    calls = {line.split()[-1] for line in assembly.splitlines() if line.split()[:1] == ["bl"]}
    assert all(name.strip('"').startswith("fb.") for name in calls), calls  # no library call for an fma
    print(assembly.count("fmla"))
"""


def test_neon_code_uses_vector_multiply_adds_and_calls_no_library():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_CPU")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert all(int(count) > 100 for count in done.stdout.split())
