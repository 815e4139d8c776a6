"""Hashes of all that flashbench's own engines return: do two versions of it give the same bits?

Hash each version for AVX-512, AVX2 and the generic path, one process for each, then compare:

    BASE/bin/python benchmarks/bits.py hash base  # writes base-avx512.json, base-avx2.json, base-generic.json
    NEW/bin/python benchmarks/bits.py hash new
    python benchmarks/bits.py compare base new    # exit code 1 if anything is different, missing or new

The Python decides which flashbench is hashed, not the place of this file. `--isa avx2` hashes one instruction
set alone; `--case PREFIX` hashes or compares only the cases whose names begin so. Hashes can be compared on
one machine only: "avx512" is what its CPU has, and NumPy's own products depend on the CPU too.

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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# NUMBA_CPU_NAME by instruction set; None: what this CPU has.
CPU_NAMES: Mapping[str, str | None] = {"avx512": None, "avx2": "haswell", "generic": "x86-64"}
OWN_SETTINGS = ("NUMBA_", "FLASHBENCH_")  # environment variables that must not decide what is hashed

Hashes = dict[str, str]


class Hasher:
    """Runs engines and keeps the hashes of what they return."""

    # By the name in a key: engine, and whether it uses SIMD.
    ENGINES: Mapping[str, tuple[str, bool]] = {
        "flash": ("flash", True),
        "flash-scalar": ("flash", False),
        "standard": ("standard", True),
        "numpy": ("numpy", True),
    }
    LARGER = ("flash", "standard")  # which have tiles and threads

    def __init__(self) -> None:
        # Here: `compare` needs no flashbench, and `hash` has to set the environment first.
        from bits_cases import larger_cases, public_calls

        from flashbench.engines import Forward, get_engine, refusal
        from flashbench.problem import AttentionProblem
        from flashbench.studies.cases import Case, all_cases

        self._forward_type, self._refusal = Forward, refusal
        self._engines = {name: get_engine(engine) for name, (engine, _) in self.ENGINES.items()}
        self.verify_cases = all_cases()
        self.larger_cases = list(larger_cases(Case, AttentionProblem.of))
        self.public_calls = public_calls
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

    def run(self, case: Any, ways: Iterable[str], threads: Iterable[int]) -> None:
        """Hash the case on each engine that has its features, with each number of threads."""
        inputs, extras = case.make_inputs(), case.make_extras()
        for way, count in itertools.product(ways, threads):
            num_threads = case.settings.num_threads or count
            settings = case.settings._replace(num_threads=num_threads, use_simd=self.ENGINES[way][1])
            dtype = case.problem.dtype
            start = f"{case.name.removesuffix('-' + dtype)}/{way}/{dtype}"
            try:
                for what, x in self._outputs(way, case, settings, inputs, extras):
                    self.note(f"{start}/{what}", x)
            except Exception as error:  # compared like a hash: the other version may raise it too
                self.hashes[f"{start}/raised"] = type(error).__name__
                print(f"  {start} raised {type(error).__name__}: {error}")

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


def hash_of(x: Any) -> str:
    """Of dtype, shape and bytes; a NaN is as good as another. uint16: the patterns of bfloat16 numbers."""
    x = np.ascontiguousarray(x)
    digest = hashlib.blake2b(f"{x.dtype.str} {x.shape}".encode(), digest_size=12)
    is_nan, nan = (x & 0x7FFF > 0x7F80, 0x7FC0) if x.dtype == np.uint16 else (np.isnan(x), np.nan)
    digest.update(np.where(is_nan, x.dtype.type(nan), x).tobytes())
    return digest.hexdigest()


def hash_here(target: Path, prefix: str) -> int:
    """Hash everything for the instruction set of this process."""
    started = time.monotonic()
    warnings.simplefilter("ignore", RuntimeWarning)  # NaN and infinity are meant
    hasher = Hasher()
    for case in hasher.verify_cases:
        if case.name.startswith(prefix):
            hasher.run(case, hasher.ENGINES, threads=(2,))
    print(f"  {len(hasher.hashes)} hashes of verify's cases, {time.monotonic() - started:.0f} s", flush=True)
    for case in hasher.larger_cases:
        if case.name.startswith(prefix):
            hasher.run(case, hasher.LARGER, threads=(2, 1))
    for key, x in hasher.public_calls():
        if key.startswith(prefix):
            hasher.note(key, x)
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
        kept = {name: os.environ[name] for name in os.environ if not name.startswith(OWN_SETTINGS)}
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
    written = [Path(f"{word}-{isa}.json") for isa in CPU_NAMES]
    paths = [named] if named.is_file() else [path for path in written if path.is_file()]
    if not paths:
        raise SystemExit(f"no file {word}, and no {word}-ISA.json")
    return {record["isa"]: record for record in map(read, paths)}


def compare(base_word: str, new_word: str, prefix: str) -> int:
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
        base, new = (
            {key: value for key, value in records[isa]["hashes"].items() if key.startswith(prefix)}
            for records in (bases, news)
        )
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
    comparing.add_argument("--case", default="", metavar="PREFIX", help="only cases whose names begin so")
    chosen = parser.parse_args()
    if chosen.command == "hash":
        return hash_all(chosen.stem, chosen.isa or list(CPU_NAMES), chosen.case)
    if chosen.command == "hash-here":
        return hash_here(chosen.target, chosen.case)
    return compare(chosen.base, chosen.new, chosen.case)


if __name__ == "__main__":
    sys.exit(main())
