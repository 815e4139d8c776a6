"""Hashes of all that flashbench's own engines return: do two versions of it give the same bits?

Hash each version for AVX-512, AVX2 and the generic path, one process for each, then compare:

    BASE/bin/python benchmarks/bits.py hash base    # writes base-avx512.json, base-avx2.json, base-generic.json
    NEW/bin/python benchmarks/bits.py hash new
    python benchmarks/bits.py compare base new      # exit code 1 if anything is different, missing or new

The Python decides which flashbench is hashed, not the place of this file. `--isa avx2` hashes one instruction
set alone, `--case PREFIX` only the cases whose names begin so. Hashes can be compared on one machine only:
"avx512" is what its CPU has, and NumPy's own products depend on the CPU too.

The hashes are of o, lse, dq, dk, dv, dsinks and dmask. `flash`, its scalar loops, `standard` and `numpy` run
every case of `flashbench verify`; `flash` and `standard` also run larger problems, in several memory layouts,
and the public functions. Larger problems run on two threads and on one: bits that depend on the number of
threads are an error of that version, which `hash` reports with exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# NUMBA_CPU_NAME by instruction set; None: what this CPU has.
CPU_NAMES: Mapping[str, str | None] = {"avx512": None, "avx2": "haswell", "generic": "x86-64"}
DTYPES = ("float32", "float64")
SEED = 1

Hashes = dict[str, str]


def by_rows(inputs: Any) -> Any:
    """The same numbers in views of (batch, seqlen, heads, head_dim) arrays, as models have them."""
    return type(inputs)(*(x.swapaxes(1, 2).copy().swapaxes(1, 2) for x in inputs))


def padded_rows(inputs: Any) -> Any:
    """Rows 4096 bytes apart: the worst for a cache."""

    def padded(x: Any) -> Any:
        wide = np.zeros((*x.shape[:3], 4096 // x.itemsize), x.dtype)
        wide[..., : x.shape[3]] = x
        return wide[..., : x.shape[3]]

    return type(inputs)(*map(padded, inputs))


# By name; None: contiguous (batch, heads, seqlen, head_dim).
LAYOUTS: Mapping[str, Callable[[Any], Any] | None] = {"heads": None, "rows": by_rows}
VALUES = {"nan": np.nan, "inf": np.inf}
MASKINGS: Mapping[str, Mapping[str, Any]] = {"full": {}, "causal": {"causal": True}}


def larger_cases(case_type: Any, problem_of: Callable[..., Any]) -> Iterator[Any]:
    """Cases with more tiles, heads and keys than those of `verify`."""
    for dtype, (name, seqlen_q, change, fields) in itertools.product(DTYPES, larger_problems()):
        problem = problem_of(seqlen_q, dtype=dtype, **fields)
        yield case_type(f"{name}-{dtype}", "larger", problem, change=change)


def larger_problems() -> Iterator[tuple[str, int, Callable[[Any], Any] | None, Mapping[str, Any]]]:
    """Name, seqlen_q, what lays the inputs out, and further fields of a problem."""
    for (layout, change), (masking, masked) in itertools.product(LAYOUTS.items(), MASKINGS.items()):
        end = f"{masking}-{layout}"
        for name, seqlen_q, fields in SHAPES:
            yield f"{name}-{end}", seqlen_q, change, {**fields, **masked}
        for name, fields in FEATURES.items():
            yield f"larger-{name}-{end}", 530, change, {**BASE, **fields, **masked}
    for (layout, change), seqlen_q in itertools.product(LAYOUTS.items(), (1, 5, 16)):
        for name, fields in DECODING.items():
            shape = {"seqlen_k": 2100, "batch": 2, "num_heads": 8, "num_kv_heads": 2, "causal": True}
            yield f"decode-{seqlen_q}x2100-{name}-{layout}", seqlen_q, change, {**shape, **fields}
    for (word, value), place in itertools.product(VALUES.items(), ("q", "k", "v", "do")):
        for masking, masked in MASKINGS.items():
            yield f"larger-{word}-in-{place}-{masking}", 530, put(value, place), {**BASE, **masked}
    for name in ("plain", "sinks", "packed"):
        yield f"larger-{name}-padded-rows", 530, padded_rows, {**BASE, **FEATURES[name]}


# seqlen_q and further fields.
SHAPES: tuple[tuple[str, int, Mapping[str, Any]], ...] = (
    *(
        (
            f"larger-{seqlen}-heads-{heads}-{kv_heads}",
            seqlen,
            {"batch": 2, "num_heads": heads, "num_kv_heads": kv_heads},
        )
        for seqlen in (64, 129)
        for heads, kv_heads in ((4, 4), (4, 2), (4, 1))
    ),
    ("larger-512-heads-8-8", 512, {"num_heads": 8}),
    ("larger-512-heads-8-2", 512, {"num_heads": 8, "num_kv_heads": 2}),
    ("larger-1024-heads-4-4", 1024, {"num_heads": 4}),
    ("larger-1024-heads-4-1", 1024, {"num_heads": 4, "num_kv_heads": 1}),
    ("larger-1024-d128", 1024, {"num_heads": 2, "head_dim": 128}),
    ("larger-700-d256-v40", 700, {"num_heads": 2, "head_dim": 256, "head_dim_v": 40}),
    ("larger-2048-heads-2-2", 2048, {"num_heads": 2}),
    ("larger-513x1030", 513, {"seqlen_k": 1030, "num_heads": 3, "head_dim": 80}),
    ("larger-1030x513", 1030, {"seqlen_k": 513, "num_heads": 3, "head_dim": 80}),
    ("larger-513x1030-top-left", 513, {"seqlen_k": 1030, "num_heads": 3, "causal_alignment": "top-left"}),
)
BASE: Mapping[str, Any] = {"seqlen_k": 600, "num_heads": 4, "num_kv_heads": 2, "head_dim": 32}
FEATURES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "window": {"window": (150, 40)},
    "softcap": {"softcap": 2.0},
    "alibi": {"alibi": True},
    "sinks": {"sinks": True},
    **{f"bool-{axes}": {"mask": "bool", "mask_axes": axes} for axes in ("k", "hqk")},
    **{f"float-{axes}": {"mask": "float", "mask_axes": axes} for axes in ("k", "q", "qk", "hqk")},
    "float-bk": {"mask": "float", "mask_axes": "bk", "batch": 2},
    "block-64x64": {"mask": "block", "mask_axes": "hqk"},
    "block-128x32": {"mask": "block", "mask_axes": "qk", "mask_block_q": 128, "mask_block_k": 32},
    "dropout": {"dropout": 0.2, "dropout_seed": 2**40 + 7},
    "key-lengths": {"batch": 2, "key_lengths": (600, 333)},
    "packed": {"batch": 2, "query_lengths": (530, 411), "key_lengths": (600, 599)},
    "packed-many": {
        "batch": 24,
        "query_lengths": tuple(range(1, 265, 11)),
        "key_lengths": tuple(range(300, 36, -11)),
    },
    "window-softcap-alibi-sinks-float-dropout": {
        "window": (300, 100),
        "softcap": 1.5,
        "alibi": True,
        "sinks": True,
        "mask": "float",
        "mask_axes": "hqk",
        "dropout": 0.1,
    },
}
DECODING: Mapping[str, Mapping[str, Any]] = {
    "gqa": {},
    "mha": {"num_kv_heads": 8},
    "mqa": {"num_kv_heads": 1, "head_dim": 128, "head_dim_v": 64},
    "everything": {
        "window": (1500, None),
        "softcap": 3.0,
        "alibi": True,
        "sinks": True,
        "key_lengths": (2100, 777),
    },
    "mask": {"mask": "float", "mask_axes": "bhqk"},
    "paged-16": {"page_size": 16, "key_lengths": (2100, 777)},
    "paged-128-everything": {
        "page_size": 128,
        "key_lengths": (2000, 2100),
        "window": (1500, None),
        "softcap": 3.0,
        "alibi": True,
        "sinks": True,
    },
}


def put(value: float, name: str) -> Callable[[Any], Any]:
    """Puts the value into one input, and lays all of them out by rows."""

    def change(inputs: Any) -> Any:
        getattr(inputs, name)[0, 1, 300, 7] = value
        return by_rows(inputs)

    return change


class Hasher:
    """Runs engines and keeps the hashes of what they return. It alone imports modules of flashbench."""

    # By the name in a key: engine, and whether it uses SIMD.
    ENGINES: Mapping[str, tuple[str, bool]] = {
        "flash": ("flash", True),
        "flash-scalar": ("flash", False),
        "standard": ("standard", True),
        "numpy": ("numpy", True),
    }
    LARGER = ("flash", "standard")  # those that larger problems are for: the others are one loop, or NumPy

    def __init__(self) -> None:
        from flashbench.engines import Forward, get_engine, refusal
        from flashbench.problem import AttentionProblem
        from flashbench.studies.cases import Case, all_cases

        self._forward_type, self._refusal, self._case_type = Forward, refusal, Case
        self._engines = {name: get_engine(engine) for name, (engine, _) in self.ENGINES.items()}
        self.verify_cases = all_cases()
        self.larger_cases = list(larger_cases(Case, AttentionProblem.of))
        self.hashes: Hashes = {}
        self.unsteady: list[str] = []  # keys whose bits depend on the number of threads

    @property
    def isa(self) -> str:
        """The vectors that the kernels were compiled for, wherever the module is that says so."""
        (module,) = (
            module
            for name, module in sys.modules.items()
            if name.startswith("flashbench.") and name.endswith(".isa")
        )
        return str(module.ISA.name)

    def run(
        self, case: Any, *, ways: Iterable[str] = tuple(ENGINES), threads: tuple[int, ...] = (2,)
    ) -> None:
        """Hash the case on each engine that has its features, with each number of threads."""
        inputs, extras = case.make_inputs(), case.make_extras()
        for way in ways:
            simd = self.ENGINES[way][1]
            for count in threads:
                settings = case.settings._replace(
                    num_threads=case.settings.num_threads or count, use_simd=simd
                )
                for what, x in self._outputs(way, case, settings, inputs, extras):
                    self.note(f"{case_and_engine(case, way)}/{what}", x)

    def _outputs(
        self, way: str, case: Any, settings: Any, inputs: Any, extras: Any
    ) -> Iterator[tuple[str, Any]]:
        engine, problem, (q, k, v, do) = self._engines[way], case.problem, inputs
        if self._refusal(engine, problem, "fwd") is not None:
            return
        o, lse, _ = engine.forward(problem, settings, q, k, v, extras=extras)
        yield "fwd/o", o
        yield "fwd/lse", lse
        if not case.backward or self._refusal(engine, problem, "bwd") is not None:
            return
        kept = engine.forward(problem, settings, q, k, v, extras=extras, keep=True)
        forwards = {"bwd": kept}
        if kept.saved is not None:
            yield "fwd-keep/o", kept.o
            yield "fwd-keep/lse", kept.lse
            forwards["bwd-recompute"] = self._forward_type(kept.o, kept.lse)
        for direction, forward in forwards.items():
            gradients = engine.backward(
                problem, settings, do, q, k, v, forward, extras=extras, mask_gradient=problem.mask == "float"
            )
            for name, x in zip(("dq", "dk", "dv"), gradients, strict=True):
                yield f"{direction}/{name}", x
            yield f"{direction}/dsinks", gradients.dsinks
            yield f"{direction}/dmask", gradients.dmask

    def note(self, key: str, x: Any) -> None:
        """Keep the hash of an array; nothing for None."""
        if x is None:
            return
        found = hash_of(x)
        if self.hashes.setdefault(key, found) != found:
            self.unsteady.append(key)


def case_and_engine(case: Any, way: str) -> str:
    dtype = case.problem.dtype
    return f"{case.name.removesuffix('-' + dtype)}/{way}/{dtype}"


def hash_of(x: Any) -> str:
    """Of dtype, shape and bytes; a NaN is as good as another."""
    x = np.ascontiguousarray(x)
    digest = hashlib.blake2b(f"{x.dtype.str} {x.shape}".encode(), digest_size=12)
    digest.update(np.where(np.isnan(x), x.dtype.type(np.nan), x).tobytes())
    return digest.hexdigest()


def hash_public_functions(hasher: Hasher) -> None:
    """What `import flashbench` offers, with arrays as callers have them."""
    import flashbench

    for dtype in DTYPES:
        rng = np.random.default_rng(SEED)

        def normal(*shape: int, dtype: str = dtype, rng: Any = rng) -> Any:
            return rng.standard_normal(shape).astype(dtype)

        def note(name: str, outputs: Any, dtype: str = dtype) -> None:
            call, engine, direction = name.split("/")
            gradients = {what: getattr(outputs, what, None) for what in ("dsinks", "dmask")}
            names = ("o", "lse") if direction == "fwd" else ("dq", "dk", "dv")
            for what, x in {**dict(zip(names, outputs, strict=True)), **gradients}.items():
                hasher.note(f"{call}/{engine}/{dtype}/{direction}/{what}", x)

        one_head = [normal(2, 150, 48) for _ in range(4)]
        heads = [x.swapaxes(1, 2) for x in (normal(2, 300, 4, 64), *(normal(2, 300, 2, 64) for _ in "kv"))]
        options = {"causal": True, "mask": normal(4, 1, 300), "sinks": normal(4)}
        do = normal(2, 4, 300, 64)
        cu_seqlens = np.array([0, 70, 70, 371, 400])
        packed = [normal(400, 4, 40), normal(400, 2, 40), normal(400, 2, 24), normal(400, 4, 24)]
        cache = flashbench.KVCache(3, 2, 64, dtype=dtype)
        pages = flashbench.PagedKVCache(3, 2, 64, num_pages=200, page_size=16, dtype=dtype)
        for tokens in (700, 1, 33):
            new = normal(3, 2, tokens, 64), normal(3, 2, tokens, 64)
            cache.append(*new)
            pages.append(*new)
        new_query = normal(3, 8, 1, 64)
        for engine in ("flash", "standard"):
            q, k, v, given = one_head
            o, lse = result = flashbench.attention(q, k, v, engine=engine, return_lse=True)
            note(f"api-3d/{engine}/fwd", result)
            note(f"api-3d/{engine}/bwd", flashbench.attention_backward(given, q, k, v, o, lse, engine=engine))

            o, lse = result = flashbench.attention(*heads, engine=engine, return_lse=True, **options)
            note(f"api-heads/{engine}/fwd", result)
            gradients = flashbench.attention_backward(
                do, *heads, o, lse, engine=engine, return_dmask=True, **options
            )
            note(f"api-heads/{engine}/bwd", gradients)

            q, k, v, given = packed
            lengths = cu_seqlens, cu_seqlens
            o, lse = result = flashbench.attention_varlen(q, k, v, *lengths, engine=engine, return_lse=True)
            note(f"api-varlen/{engine}/fwd", result)
            gradients = flashbench.attention_varlen_backward(given, q, k, v, o, lse, *lengths, engine=engine)
            note(f"api-varlen/{engine}/bwd", gradients)

            options_of_cache = {"key_lengths": cache.key_lengths, "engine": engine, "return_lse": True}
            result = flashbench.attention(new_query, cache.k, cache.v, **options_of_cache)
            note(f"api-kv-cache/{engine}/fwd", result)
        result = flashbench.attention(
            new_query,
            pages.k,
            pages.v,
            key_lengths=pages.key_lengths,
            block_table=pages.block_table,
            return_lse=True,
        )
        note("api-paged-kv-cache/flash/fwd", result)
        parts = [
            flashbench.attention(q, k[..., keys, :], v[..., keys, :], return_lse=True)
            for q, k, v in (heads,)
            for keys in (slice(100), slice(100, None))
        ]
        note("api-merge/flash/fwd", flashbench.merge_attention(*zip(*parts, strict=True)))


def hash_here(target: Path, prefix: str) -> int:
    """Hash everything for the instruction set of this process."""
    started = time.monotonic()
    warnings.simplefilter("ignore", RuntimeWarning)  # NaN and infinity are meant
    hasher = Hasher()
    for case in hasher.verify_cases:
        if case.name.startswith(prefix):
            hasher.run(case)
    print(f"  {len(hasher.hashes)} hashes of verify's cases, {time.monotonic() - started:.0f} s", flush=True)
    for case in hasher.larger_cases:
        if case.name.startswith(prefix):
            hasher.run(case, ways=hasher.LARGER, threads=(2, 1))
    if not prefix:
        hash_public_functions(hasher)
    record = {"cpu": cpu(), "isa": hasher.isa, "hashes": hasher.hashes}
    target.write_text(json.dumps(record, indent=0) + "\n")
    for key in hasher.unsteady:
        print(f"  the number of threads decides the bits of {key}")
    print(f"  {len(hasher.hashes)} hashes, {time.monotonic() - started:.0f} s", flush=True)
    return 1 if hasher.unsteady else 0


def cpu() -> str:
    import archspec.cpu

    return archspec.cpu.brand_string() or platform.processor() or platform.machine()


def hash_all(stem: str, isas: list[str], prefix: str) -> int:
    """One process for each instruction set; 1 if one of them failed or found bits that depend on threads."""
    where = importlib.util.find_spec("flashbench")
    print(f"flashbench: {where.origin if where else None}")
    failed = False
    for isa in isas:
        target = Path(f"{stem}-{isa}.json")
        print(f"{isa}: {target}", flush=True)
        target.unlink(missing_ok=True)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("NUMBA_", "FLASHBENCH_"))
        }
        # No tuned block sizes, which change the bits, and no machine code but what these sources compile to.
        with tempfile.TemporaryDirectory() as empty:
            kept |= {"FLASHBENCH_CACHE_DIR": empty, "FLASHBENCH_TUNED_DIR": empty}
            if CPU_NAMES[isa] is not None:
                kept |= {"NUMBA_CPU_NAME": str(CPU_NAMES[isa]), "NUMBA_CPU_FEATURES": ""}
            words = [sys.executable, __file__, "hash-here", str(target), "--case", prefix]
            failed |= subprocess.run(words, env=kept).returncode != 0
        if target.exists() and read(target)["isa"] != isa:
            print(f"  this CPU has no {isa}: its kernels were compiled for {read(target)['isa']}")
            failed = True
    return int(failed)


def read(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def files_of(word: str) -> dict[str, dict[str, Any]]:
    """Records by instruction set: the file of this name, or all files that `hash` wrote for this stem."""
    named = Path(word)
    paths = (
        [named]
        if named.is_file()
        else [path for isa in CPU_NAMES if (path := Path(f"{word}-{isa}.json")).is_file()]
    )
    if not paths:
        raise SystemExit(f"no file {word}, and no {word}-ISA.json")
    return {record["isa"]: record for record in map(read, paths)}


def compare(base_word: str, new_word: str) -> int:
    """Print how many hashes are equal, and the keys of the others; 1 if there are any."""
    bases, news = files_of(base_word), files_of(new_word)
    worst = 0
    for isa in {**bases, **news}:
        if isa not in bases or isa not in news:
            print(f"{isa}: no file of {base_word if isa not in bases else new_word}")
            worst = 1
            continue
        if bases[isa]["cpu"] != news[isa]["cpu"]:
            print(f"{isa}: on different CPUs: {bases[isa]['cpu']}, {news[isa]['cpu']}")
        base, new = bases[isa]["hashes"], news[isa]["hashes"]
        different = sorted(key for key in base.keys() & new.keys() if base[key] != new[key])
        missing, added = sorted(base.keys() - new.keys()), sorted(new.keys() - base.keys())
        equal = len(base.keys() & new.keys()) - len(different)
        print(f"{isa}: {equal} equal, {len(different)} different, {len(missing)} missing, {len(added)} new")
        for word, keys in (("different", different), ("missing", missing), ("new", added)):
            for key in keys:
                print(f"  {word}: {key}")
        worst |= bool(different or missing or added or not equal)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    hashing = commands.add_parser("hash", help="hash one version: writes STEM-ISA.json")
    hashing.add_argument("stem")
    hashing.add_argument("--isa", action="append", choices=CPU_NAMES, help="default: each in turn")
    hashing.add_argument("--case", default="", metavar="PREFIX", help="only cases whose names begin so")
    here = commands.add_parser("hash-here", help="what `hash` runs for each instruction set")
    here.add_argument("target", type=Path)
    here.add_argument("--case", default="")
    comparing = commands.add_parser("compare", help="compare two files, or all files of two stems")
    comparing.add_argument("base")
    comparing.add_argument("new")
    chosen = parser.parse_args()
    if chosen.command == "hash":
        return hash_all(chosen.stem, chosen.isa or list(CPU_NAMES), chosen.case)
    if chosen.command == "hash-here":
        return hash_here(chosen.target, chosen.case)
    return compare(chosen.base, chosen.new)


if __name__ == "__main__":
    sys.exit(main())
