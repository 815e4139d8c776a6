"""`step`: a part of a kernel, a function that only compiled code calls.

Numba compiles every function to a library of its own: it links in all callees, optimises the whole and writes
machine code. So it would optimise a kernel of thirty functions in six layers six times. For a step, Numba
stops after the LLVM IR. The kernel that calls the steps links their IR and optimises all of it once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, _LowerResult
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.funcdesc import PythonFunctionDescriptor
from numba.core.lowering import Lower
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering, fallback_context


class _Library(JITCodeLibrary):
    """LLVM IR to link. It is never run."""

    def _optimize_final_module(self) -> None:
        """Do nothing: the kernel optimises."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _StepLowering(LoweringPass):
    """Numba's NativeLowering without wrappers and machine code."""

    _name = "flashbench_step_lowering"

    def __init__(self) -> None:
        LoweringPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        context, flags = state.targetctx, state.flags
        library = _Library(context.codegen(), state.func_id.func_qualname)
        descriptor = PythonFunctionDescriptor.from_specialized_function(
            state.func_ir,
            state.typemap,
            state.return_type,
            state.calltypes,
            mangler=context.mangler,
            inline=flags.forceinline,
            noalias=flags.noalias,
            abi_tags=[flags.get_mangle_string()],
        )
        message = f"Function {state.func_id.func_name} failed at nopython mode lowering"
        with fallback_context(state, message), context.push_code_library(library):
            lower = Lower(context, library, descriptor, state.func_ir, metadata=state.metadata)
            lower.lower()
        library.finalize()
        key = object()  # callers find the step by this key; other functions use their callable
        context.insert_user_function(key, descriptor, [library])
        state.library = library
        state["cr"] = _LowerResult(descriptor, lower.call_helper, cfunc=key, env=lower.env)
        return True


class _Compiler(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (_StepLowering if step is NativeLowering else step, name) for step, name in manager.passes
        ]
        manager._finalized = False
        manager.finalize()
        return [manager]


class _Step(CPUDispatcher):
    def add_overload(self, result: Any) -> None:
        """Register the overload for compiled callers only: there is no machine code for Python to call."""
        self.overloads[tuple(result.signature.args)] = result

    def _compile_for_args(self, *args: Any, **options: Any) -> Any:
        raise TypeError(f"{self.py_func.__name__} is a step of kernels: call it from a compiled function")


def step(function: Callable[..., Any]) -> Any:
    """Mark a function as a part of kernels. Numba compiles it together with each kernel that calls it.

    Calling it from Python raises TypeError.
    """
    options = {"nopython": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return _Step(function, targetoptions=options, pipeline_class=_Compiler)
