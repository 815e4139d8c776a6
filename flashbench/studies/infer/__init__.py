"""Measures tokens a second of whole language models, prefill and decoding, with each attention.

Each attention is an arm of the study, with its own process. A round starts fresh processes, and the arms take
turns on each test. All arms have the same random weights and the same prompt, and so must choose the same
tokens. Memory is measured first, in processes that are not timed.
"""

from __future__ import annotations

from flashbench.studies.infer.run import run
from flashbench.studies.infer.study import InferStudy

__all__ = ["InferStudy", "run"]
