"""Series to train on: real data from packages, a user's CSV file, or synthetic data of any length."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashbench.errors import ConfigError, UnsupportedError

_COLUMNS = ("unique_id", "ds", "y")
# Lengths of the packages' series: points that are too long for them can be refused without loading them.
KNOWN_VALUES = {"sf-temps": 8759, "airpassengers": 144}


def load_series(data: str, csv: str | None, *, series: int, length: int, seed: int) -> Any:
    """A data frame with the columns unique_id, ds and y, as neuralforecast needs it.

    series, length: number of series and values per series, for synthetic data. Raises ConfigError if the CSV
    file is not such a table.
    """
    if csv is not None:
        return _from_csv(csv)
    if data == "synthetic":
        return synthetic(series, length, seed)
    if data == "airpassengers":
        from neuralforecast.utils import AirPassengersDF

        return AirPassengersDF[list(_COLUMNS)]
    from vega_datasets import local_data

    frame = local_data.sf_temps()
    return _frame("San Francisco", frame["date"], frame["temp"])


def synthetic(series: int, length: int, seed: int) -> Any:
    """Hourly values: daily and weekly waves, noise and a slow drift. Series differ; a seed repeats them."""
    import pandas

    rng = np.random.default_rng(seed)
    hours = np.arange(length)
    phase, level = rng.uniform(0, 24, (series, 1)), rng.normal(0, 3, (series, 1))
    day = np.sin(2 * np.pi * (hours + phase) / 24)
    week = 0.5 * np.sin(2 * np.pi * (hours + phase) / 168)
    drift = rng.standard_normal((series, length)).cumsum(axis=1) / np.sqrt(length)
    values = level + day + week + drift + 0.1 * rng.standard_normal((series, length))
    dates = pandas.date_range("2000-01-01", periods=length, freq="h")
    return pandas.DataFrame(
        {
            "unique_id": np.repeat(np.arange(series), length),
            "ds": np.tile(dates.to_numpy(), series),
            "y": values.ravel(),
        }
    )


def check_length(frame: Any, window: int, windows: int, what: str) -> None:
    """Raise UnsupportedError if the series have fewer than `windows` windows of `window` values.

    neuralforecast would otherwise repeat windows.
    """
    reason = shortage(longest_series(frame), window, windows, what)
    if reason is not None:
        raise UnsupportedError(reason)


def longest_series(frame: Any) -> int:
    """Number of values of the longest series. Shorter series are padded at their beginning to that length."""
    return int(frame.groupby("unique_id").size().max())


def shortage(values: int, window: int, windows: int, what: str) -> str | None:
    """Why `values` values have fewer than `windows` windows, in one line; None if they have enough."""
    if values - window + 1 >= windows:
        return None
    return (
        f"{what} has {values} values a series, {windows} windows need {window + windows - 1}: ask "
        "for shorter contexts, for fewer windows, or for --data synthetic, which is of any length"
    )


def _frame(name: str, dates: Any, values: Any) -> Any:
    import pandas

    return pandas.DataFrame({"unique_id": name, "ds": dates, "y": values.astype(float)})


def _from_csv(path: str) -> Any:
    import pandas

    try:
        frame = pandas.read_csv(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--csv {path} cannot be read: {str(error).splitlines()[0]}") from None
    if "unique_id" not in frame.columns:
        frame["unique_id"] = "series"
    missing = [name for name in _COLUMNS if name not in frame.columns]
    if missing:
        raise ConfigError(
            f"--csv {path} must have columns ds and y, and unique_id for several series; "
            f"it has {', '.join(map(str, frame.columns))}, and no {' and no '.join(missing)}"
        )
    try:
        frame["ds"] = pandas.to_datetime(frame["ds"])
        frame["y"] = pandas.to_numeric(frame["y"])
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--csv {path}: {str(error).splitlines()[0]}") from None
    if frame["y"].isna().any():
        raise ConfigError(f"--csv {path} has rows without y: {int(frame['y'].isna().sum())} of {len(frame)}")
    return frame[list(_COLUMNS)]
