"""How a program calls each library: its imports, and a function `computed` of q, k, v and do, as text."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

from flashbench.engines import get_engine
from flashbench.engines.peers.hf_source import FUNCTION, chosen_source, options_of
from flashbench.problem import AttentionProblem

Call = Callable[[AttentionProblem], tuple[str, str]]

_TENSORS = """\
def tensor(x):
    if x.dtype == np.uint16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


"""


def _torch(imports: str, call: str, *, gradients: bool = True) -> tuple[str, str]:
    first = "torch.set_grad_enabled(False)"
    if gradients:
        first = "q, k, v = (x.requires_grad_() for x in (q, k, v))"
    body = f"{_TENSORS}def computed(q, k, v, do):\n    q, k, v, do = map(tensor, (q, k, v, do))\n"
    body += f"    {first}\n{call}\n"
    if gradients:
        body += """\
    dq, dk, dv = torch.autograd.grad(o, (q, k, v), do)
    return {name: x.detach().double().numpy() for name, x in dict(o=o, dq=dq, dk=dk, dv=dv).items()}
"""
    else:
        body += "    return dict(o=o.double().numpy())\n"
    return f"import torch\n{imports}\n", body


def _sdpa(problem: AttentionProblem) -> str:
    """The public function."""
    shared = problem.num_heads != problem.num_kv_heads
    return f"""\
o = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal={problem.masked}, scale={problem.scale!r}, enable_gqa={shared}
        )"""


def _torch_math(problem: AttentionProblem) -> tuple[str, str]:
    call = f"    with sdpa_kernel(SDPBackend.MATH):\n        {_sdpa(problem)}"
    return _torch("from torch.nn.attention import SDPBackend, sdpa_kernel", call)


def _torch_flash(problem: AttentionProblem) -> tuple[str, str]:
    """The public function, and for lse the operator that it runs, unless that cannot run the problem."""
    imports, body = _torch("", f"    {_sdpa(problem)}")
    if problem.head_dim == problem.head_dim_v:
        body = body.replace(
            "    return {name: x.d",
            f"""\
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    _, lse = flash(q.detach(), k.detach(), v.detach(), 0.0, {problem.masked}, scale={problem.scale!r})
    return {{"lse": lse.double().numpy()}} | {{name: x.d""",
        )
    return imports, body


def _zentorch(problem: AttentionProblem) -> tuple[str, str]:
    """The operator. Its lse is left out: the kernel that it usually runs never writes one."""
    operator = "torch.ops.zentorch.zentorch_sdpa"
    call = f"    o, _ = {operator}(q, k, v, 0.0, {problem.masked}, scale={problem.scale!r})"
    return _torch("import zentorch  # registers its operators with torch", call, gradients=False)


def _flex(problem: AttentionProblem) -> tuple[str, str]:
    offset = "0" if problem.causal_alignment == "top-left" else f"{problem.seqlen_k - problem.seqlen_q}"
    if problem.key_lengths is not None and problem.causal_alignment != "top-left":
        offset = f"(shown_lengths[b] - {problem.seqlen_q})"
    scores, shown = [], []
    right = 0 if problem.causal else problem.window_right
    if problem.softcap is not None:
        scores.append(f"s = {problem.softcap!r} * torch.tanh(s / {problem.softcap!r})")
    if problem.alibi:
        scores.append(f"s = s - of_heads[b, h] * (i + {offset} - j).abs()")
    if problem.mask == "float":
        scores.append("s = s + added[b, h, i, j]")
    elif problem.mask is not None:
        shown.append("added[b, h, i, j]")
    if right is not None:
        shown.append(f"(j <= i + {offset} + {right})")
    if problem.window_left is not None:
        shown.append(f"(j >= i + {offset} - {problem.window_left})")
    if problem.key_lengths is not None:
        shown.append("(j < shown_lengths[b])")
    lines = []
    if problem.key_lengths is not None:
        lines.append("shown_lengths = torch.from_numpy(lengths)")
    if problem.alibi:
        lines.append("of_heads = tensor(slopes)")
    if problem.mask is not None:
        lines.append("added = torch.from_numpy(mask)")
    lines += ["def score_mod(s, b, h, i, j):", *(f"    {x}" for x in scores), "    return s"]
    blocks = "None"
    if shown:
        lines += ["def mask_mod(b, h, i, j):", f"    return {' & '.join(shown)}"]
        sizes = problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k
        lines.append(f"blocks = create_block_mask(mask_mod, {', '.join(map(str, sizes))}, device='cpu')")
        blocks = "blocks"
    lines.append(
        f"o = torch.compile(flex_attention)(q, k, v, score_mod=score_mod, block_mask={blocks}, "
        f"scale={problem.scale!r}, enable_gqa={problem.num_heads != problem.num_kv_heads})"
    )
    imports = "from torch.nn.attention.flex_attention import create_block_mask, flex_attention"
    return _torch(imports, "\n".join(f"    {x}" for x in lines), gradients=False)


def _jax(problem: AttentionProblem) -> tuple[str, str]:
    window = None
    if problem.window_left is not None or problem.window_right is not None:
        sides = problem.window_left, problem.window_right
        window = tuple(problem.seqlen_q + problem.seqlen_k if side is None else side for side in sides)
    mask = "None, None" if problem.mask is None else "None, mask" if problem.mask != "float" else "mask, None"
    lengths = "None" if problem.key_lengths is None else "lengths"
    view = ".view(jnp.bfloat16)" if problem.dtype == "bfloat16" else ""
    imports = "import jax\nimport jax.numpy as jnp\n"
    if problem.dtype == "float64":
        imports += '\njax.config.update("jax_enable_x64", True)\n'
    return (
        imports,
        f'''\
def computed(q, k, v, do):
    """JAX has (batch, length, heads, head_dim)."""
    q, k, v, do = (jnp.asarray(x{view}.swapaxes(1, 2)) for x in (q, k, v, do))

    def attend(q, k, v):
        return jax.nn.dot_product_attention(
            q, k, v, {mask}, scale={problem.scale!r}, is_causal={problem.causal and problem.masked},
            key_value_seq_lengths={lengths}, local_window_size={window},
        )

    def gradients(q, k, v, do):
        return jax.vjp(attend, q, k, v)[1](do)

    found = dict(o=jax.jit(attend)(q, k, v))
    found |= zip(("dq", "dk", "dv"), jax.jit(gradients)(q, k, v, do))
    return {{name: np.asarray(x, np.float64).swapaxes(1, 2) for name, x in found.items()}}
''',
    )


def _onnxruntime(problem: AttentionProblem) -> tuple[str, str]:
    from flashbench.engines.peers.onnxruntime import model_of

    model = base64.b64encode(model_of(problem)).decode()
    return (
        "import onnxruntime\n",
        f'''\
MODEL = "{model}"  # one node


def computed(q, k, v, do):
    session = onnxruntime.InferenceSession(base64.b64decode(MODEL), providers=["CPUExecutionProvider"])
    rows = (x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1) for x in (q, k, v))
    given = dict(zip("qkv", rows))
    batch, seqlen = q.shape[0], q.shape[2]
    more = dict(last_keys=np.full(batch, seqlen - 1, np.int32), seqlen=np.array(seqlen, np.int32))
    given |= {{x.name: more[x.name] for x in session.get_inputs() if x.name in more}}
    (o,) = session.run(["o"], given)
    return dict(o=o.reshape(batch, seqlen, q.shape[1], -1).swapaxes(1, 2))
''',
    )


def _hf_kernel(problem: AttentionProblem) -> tuple[str, str]:
    """The kernel as a program loads it, and gradients if it has them."""
    source = chosen_source()
    arguments = [f"{name}={value!r}" for name, value in options_of(problem).items()]
    if problem.alibi:
        arguments.append("alibi_slopes=torch.from_numpy(slopes)")
    call = f"""\
    rows = (x.transpose(1, 2) for x in (q, k, v))  # (batch, length, heads, head_dim)
    o = kernel.{FUNCTION}({", ".join(["*rows", *arguments])})
    o = (o[0] if isinstance(o, tuple) else o).transpose(1, 2)"""
    if source.folder is None:
        named = ", ".join(f"{name}={value!r}" for name, value in source.chosen.items())
        imports = f"from kernels import get_kernel\n\nkernel = get_kernel({source.repository!r}, {named})"
    else:
        imports = f"""\
import importlib.util

spec = importlib.util.spec_from_file_location("kernel", {str(source.folder / "__init__.py")!r})
kernel = sys.modules["kernel"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernel)"""
    trains = get_engine("hf-kernel").unsupported(problem, "bwd") is None
    return _torch(imports, call, gradients=trains)


# By engine.
CALLS: Mapping[str, Call] = {
    "torch-flash": _torch_flash,
    "torch-math": _torch_math,
    "zentorch": _zentorch,
    "flex": _flex,
    "jax": _jax,
    "onnxruntime": _onnxruntime,
    "hf-kernel": _hf_kernel,
}
