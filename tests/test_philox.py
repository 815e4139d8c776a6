"""Dropout's words: published answers, their counter, and statistical tests in all directions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flashbench.philox import dropout_kept, dropout_threshold, philox_words
from flashbench.problem import AttentionProblem

# Seeds are fixed, so a test that passes once always passes. None of about a hundred tests should be rarer
# than this.
RARE = 1e-4

# Random123's known answers for philox4x32-10: counter, key, words.
KNOWN_ANSWERS = [
    ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words_of(*words: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array(word, np.uint32) for word in words)


def problem_of(dropout: float, seed: int = 0) -> AttentionProblem:
    return AttentionProblem.of(1, dropout=dropout, dropout_seed=seed)


def kept(dropout: float, shape: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
    """The pairs that dropout keeps, for these numbers of sequences, heads, queries and keys."""
    batch, num_heads, rows, columns = shape
    problem = problem_of(dropout, seed)
    return np.array(
        [
            [dropout_kept(problem, b, h, np.arange(rows), np.arange(columns)) for h in range(num_heads)]
            for b in range(batch)
        ]
    )


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_words_are_the_published_ones(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    assert tuple(int(word) for word in philox_words(words_of(*counter), key)) == words


def test_counters_broadcast() -> None:
    rows, columns = np.arange(3, dtype=np.uint32)[:, None], np.arange(5, dtype=np.uint32)
    block = philox_words((columns, rows, *words_of(7, 9)), (1, 2))
    for i, j in np.ndindex(3, 5):
        one = philox_words(words_of(j, i, 7, 9), (1, 2))
        assert [int(word[i, j]) for word in block] == [int(word) for word in one]


@given(
    seed=st.integers(0, 2**64 - 1),
    b=st.integers(0, 2**20),
    h=st.integers(0, 2**10),
    i=st.integers(0, 2**24),
    j=st.integers(0, 2**24),
    dropout=st.floats(0, 1, exclude_max=True),
)
def test_a_pair_is_kept_by_its_own_word(seed: int, b: int, h: int, i: int, j: int, dropout: float) -> None:
    words = philox_words(words_of(j // 4, i, h, b), (seed % 2**32, seed // 2**32))
    found = dropout_kept(problem_of(dropout, seed), b, h, np.array([i]), np.array([j]))
    assert found.tolist() == [[bool(int(words[j % 4]) >= min(round(dropout * 2**32), 2**32 - 1))]]


@given(
    rows=st.lists(st.integers(0, 40), min_size=1),
    columns=st.lists(st.integers(0, 40), min_size=1),
)
def test_any_rows_and_columns_find_what_the_whole_has(rows: list[int], columns: list[int]) -> None:
    whole = kept(0.5, (1, 1, 41, 41))[0, 0]
    part = dropout_kept(problem_of(0.5), 0, 0, np.array(rows), np.array(columns))
    assert np.array_equal(part, whole[np.ix_(rows, columns)])


def test_threshold_is_the_share_of_words() -> None:
    assert [dropout_threshold(p) for p in (0.0, 0.25, 0.5)] == [0, 2**30, 2**31]
    assert dropout_threshold(np.nextafter(1.0, 0.0)) == 2**32 - 1
    assert kept(0.0, (1, 1, 50, 50)).all()


def test_a_word_at_the_threshold_keeps_its_pair() -> None:
    word = int(philox_words(words_of(0, 0, 0, 0), (0, 0))[0])
    first = np.array([0])
    at, above = (dropout_kept(problem_of(below / 2**32), 0, 0, first, first) for below in (word, word + 1))
    assert at.all()
    assert not above.any()


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**64 - 1])
@pytest.mark.parametrize("dropout", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_the_rate_is_dropout(dropout: float, seed: int) -> None:
    found = kept(dropout, (2, 3, 150, 151), seed)
    assert stats.binomtest(int(found.sum()), found.size, 1 - dropout).pvalue > RARE


@pytest.mark.parametrize("axis", ["sequence", "head", "query", "key"])
def test_each_slice_keeps_as_many_as_a_binomial_does(axis: str) -> None:
    """Sums over slices vary as they should: no more (no slice favours one side), and no less."""
    found = kept(0.3, (40, 40, 40, 40), seed=5)
    place = ["sequence", "head", "query", "key"].index(axis)
    sums = found.sum(axis=tuple(other for other in range(4) if other != place))
    size = found.size // 40
    statistic = float(((sums - 0.7 * size) ** 2).sum() / (size * 0.7 * 0.3))
    assert RARE < stats.chi2.cdf(statistic, df=40) < 1 - RARE


def neighbours(found: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Pairs of equal parts, which are that many steps apart along one axis or two."""
    pairs = []
    for steps in itertools.product((0, 1, 3), (0, 1, 3), (0, 1, 4), (0, 1, 2, 4, 8)):
        if any(steps):
            first = found[tuple(slice(0, size - step) for size, step in zip(found.shape, steps, strict=True))]
            second = found[tuple(slice(step, None) for step in steps)]
            pairs.append((str(steps), first, second))
    return pairs


def independence(first: np.ndarray, second: np.ndarray) -> float:
    """p of the chi-square test of a 2 x 2 table."""
    table = [[np.sum((first == x) & (second == y)) for y in (False, True)] for x in (False, True)]
    return float(stats.chi2_contingency(table).pvalue)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_neighbours_in_every_direction_are_independent(dropout: float) -> None:
    """Sequences, heads, queries and keys, one, some, or all a few steps away."""
    found = neighbours(kept(dropout, (6, 6, 48, 48), seed=3))
    values = {name: independence(first, second) for name, first, second in found}
    assert min(values.values()) > RARE / len(values), min(values, key=values.__getitem__)
    # Nor are they more uniform than chance allows.
    assert stats.kstest(list(values.values()), "uniform").pvalue > RARE


def test_sequence_and_head_and_query_do_not_stand_for_each_other() -> None:
    """A counter with two of its words exchanged gives other random words: no two axes are interchangeable."""
    found = kept(0.5, (16, 16, 16, 16), seed=8)
    for axes in itertools.combinations(range(4), 2):
        swapped = found.swapaxes(*axes)
        off_diagonal = ~np.eye(16, dtype=bool).reshape([16 if axis in axes else 1 for axis in range(4)])
        where = np.broadcast_to(off_diagonal, found.shape) & (np.indices(found.shape)[axes[0]] < 8)
        assert independence(found[where], swapped[where]) > RARE


@pytest.mark.parametrize("bit", [0, 1, 31, 32, 63])
def test_seeds_that_differ_in_one_bit_are_independent(bit: int) -> None:
    for seed in (0, 12345, 2**64 - 1):
        first, second = (kept(0.5, (1, 2, 100, 100), s) for s in (seed, seed ^ (1 << bit)))
        assert independence(first, second) > RARE


def test_words_are_uniform_in_every_bit() -> None:
    counter = np.arange(40_000, dtype=np.uint32)
    for word in philox_words((counter, *words_of(0, 0, 0)), (1, 0)):
        for shift in range(0, 32, 8):
            counts = np.bincount((word >> np.uint32(shift)) & np.uint32(0xFF), minlength=256)
            assert stats.chisquare(counts).pvalue > RARE
