"""Series to train on: from packages, synthetic, and from files with and without errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flashbench.errors import ConfigError, UnsupportedError
from flashbench.studies.train.data import KNOWN_VALUES, check_length, load_series, longest_series, synthetic

pandas = pytest.importorskip("pandas")


def from_csv(path: Path | str):
    return load_series("sf-temps", str(path), series=1, length=1, seed=0)


def test_synthetic_series_are_the_same_by_seed_and_all_different() -> None:
    frame = synthetic(3, 200, seed=1)
    assert frame.equals(synthetic(3, 200, seed=1))
    assert not frame.equals(synthetic(3, 200, seed=2))
    assert frame.groupby("unique_id").size().tolist() == [200, 200, 200]
    values = frame["y"].to_numpy().reshape(3, 200)
    assert np.isfinite(values).all()
    assert len({tuple(row) for row in values}) == 3
    # Daily: values a day apart are more alike than values half a day apart.
    lagged = [np.abs(values[:, hours:] - values[:, :-hours]).mean() for hours in (24, 12)]
    assert lagged[0] < lagged[1] / 2


def test_series_of_packages_are_whole() -> None:
    pytest.importorskip("vega_datasets")
    frame = load_series("sf-temps", None, series=1, length=1, seed=0)
    assert len(frame) == 8759
    assert list(frame.columns) == ["unique_id", "ds", "y"]
    assert 30 < frame["y"].mean() < 80  # Fahrenheit
    pytest.importorskip("neuralforecast")
    passengers = load_series("airpassengers", None, series=1, length=1, seed=0)
    assert (len(passengers), passengers["y"].iloc[0], passengers["y"].iloc[-1]) == (144, 112, 432)


def test_a_csv_of_one_series_and_of_two(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("ds,y,more\n2020-01-01,1.5,x\n2020-01-02,2.5,y\n")
    frame = from_csv(path)
    assert frame["y"].tolist() == [1.5, 2.5]
    assert set(frame["unique_id"]) == {"series"}
    assert frame["ds"].dt.day.tolist() == [1, 2]
    path.write_text("unique_id,ds,y\na,2020-01-01,1\nb,2020-01-01,2\n")
    assert from_csv(path)["unique_id"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("", "cannot be read: No columns"),
        ("time,y\n1,2\n", "must have columns ds and y.* it has time, y, unique_id, and no ds"),
        ("a,b\n1,2\n", "it has a, b, unique_id, and no ds and no y"),
        ("ds,y\n2020-01-01,\n2020-01-02,1\n", "has rows without y: 1 of 2"),
        ("ds,y\n2020-01-01,many\n", "Unable to parse string .many."),
        ("ds,y\nsome day,1\n", "some day"),
    ],
)
@pytest.mark.filterwarnings("ignore:Could not infer format:UserWarning")  # from pandas: not a date
def test_errors_of_a_csv_name_it(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "mine.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=words) as raised:
        from_csv(path)
    assert str(path) in str(raised.value)


def test_lengths_that_are_told_without_loading_are_those_of_the_data() -> None:
    pytest.importorskip("vega_datasets")
    pytest.importorskip("neuralforecast")
    for name, values in KNOWN_VALUES.items():
        assert longest_series(load_series(name, None, series=1, length=1, seed=0)) == values


def test_series_are_not_repeated_to_fill_a_window() -> None:
    frame = synthetic(2, 100, seed=0)
    check_length(frame, 98, 3, "mine.csv")
    with pytest.raises(UnsupportedError, match=r"mine.csv has 100 values a series, 3 windows need 101"):
        check_length(frame, 99, 3, "mine.csv")
