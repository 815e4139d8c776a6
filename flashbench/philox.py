"""Dropout's random numbers in NumPy. Seed and (sequence, head, query, key) alone decide what is kept.

Philox 4x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3") is a function of a counter,
not a stream. So every tile gets the same words, in forward and backward, on any thread. Code that is not
compiled, such as the oracle, uses this module. Compiled kernels agree with it bit for bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flashbench.problem import AttentionProblem

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85  # steps of the key's Weyl sequences: golden ratio, sqrt(3) - 1
WORDS = 4  # words per counter
LARGEST_WORD = 2**32 - 1

Words = NDArray[np.uint32]


def philox_words(
    counter: tuple[Words, Words, Words, Words], key: tuple[int, int]
) -> tuple[Words, Words, Words, Words]:
    """The four random words of every counter. counter: its four words, arrays that broadcast together."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint32) for word in counter)
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _product(MULTIPLIERS[0], c0)
        high1, low1 = _product(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint32(k0), low1, high0 ^ c3 ^ np.uint32(k1), low0
        k0, k1 = (k0 + KEY_STEPS[0]) & LARGEST_WORD, (k1 + KEY_STEPS[1]) & LARGEST_WORD
    return c0, c1, c2, c3


def dropout_threshold(dropout: float) -> int:
    """The limit, out of 2**32: a pair is dropped if its word is below it."""
    return min(round(dropout * (LARGEST_WORD + 1)), LARGEST_WORD)


def dropout_kept(
    problem: AttentionProblem, b: int, h: int, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """(rows, columns): True for each pair of query and key that dropout keeps, in sequence b, head h.

    Key j has word j % 4 of the counter (j // 4, query, h, b). Philox's key is the seed, low word first.
    """
    blocks, place = np.unique(columns // WORDS, return_inverse=True)
    counter = blocks[np.newaxis, :], rows[:, np.newaxis], np.array(h), np.array(b)
    seed = problem.dropout_seed & LARGEST_WORD, problem.dropout_seed >> 32
    c0, c1, c2, c3 = (word.astype(np.uint32) for word in counter)
    words = np.stack(philox_words((c0, c1, c2, c3), seed), axis=-1)
    kept = words >= np.uint32(dropout_threshold(problem.dropout))
    return np.asarray(kept[:, place, columns % WORDS])


def _product(multiplier: int, word: Words) -> tuple[Words, Words]:
    """High and low word of the 64-bit product."""
    product = np.uint64(multiplier) * word.astype(np.uint64)
    return (product >> np.uint64(32)).astype(np.uint32), product.astype(np.uint32)
