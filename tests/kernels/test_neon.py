"""The NEON path on a machine without NEON: its code is generated, not run."""

import os
import subprocess
import sys

SCRIPT = """
import platform
platform.machine = lambda: "aarch64"
import llvmlite.binding as llvm
from llvmlite import ir
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
from flashbench.kernels.products import fma, pack
from flashbench.kernels.row import dropout as row_dropout
from flashbench.kernels.row import features as row_features
from flashbench.kernels.row import softmax as row_softmax
from flashbench.kernels.tile import edit, softmax
from flashbench.codegen.isa import ISA
assert ISA.name == "neon"
TRIPLE = "aarch64-unknown-linux-gnu"
WRITERS = [
    fma._product, pack._pack, softmax._online_softmax, softmax._probabilities, softmax._score_gradients,
    edit._scale, edit._finite, edit._row_dots, row_softmax._softmax_row,
    row_softmax._natural_softmax_row, row_softmax._mean_gradient, row_softmax._gradient_row,
    row_features._softcap_row, row_features._softcap_gradient_row,
    row_features._scale_row, row_features._alibi_row, row_features._add_mask_row,
    row_features._clear_lowest_row, row_features._hide_row, row_dropout._drop_row,
    row_dropout._drop_gradient_row,
]
for element in (ir.FloatType(), ir.DoubleType()):
    module = ir.Module("neon")
    module.triple = TRIPLE
    main = ir.Function(module, ir.FunctionType(ir.VoidType(), []), "main")
    builder = ir.IRBuilder(main.append_basic_block())
    for write in WRITERS:
        write(builder, element).linkage = "external"
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
