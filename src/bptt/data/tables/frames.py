"""Tables in memory: frames of polars, and of pandas."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt.errors import BpttError, shown

if TYPE_CHECKING:
    import polars as pl


def as_polars(data: Any) -> pl.DataFrame:
    """Return a frame of polars, of polars' or pandas' own; or raise BpttError.

    The index of a pandas frame comes first, as a column, if it has a name.
    """
    import polars as pl  # noqa: PLC0415

    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, pl.DataFrame):
        return data
    is_pandas = type(data).__module__.split(".")[0] == "pandas" and hasattr(data, "columns")
    if not is_pandas:
        raise BpttError(
            f"the table is {shown(data)}; expected a file (.csv, .tsv, .parquet), or a frame of "
            "polars or pandas"
        )
    if any(name is not None for name in data.index.names):
        data = data.reset_index()
    if not data.columns.is_unique:
        twice = data.columns[data.columns.duplicated()][0]
        raise BpttError(f"the table has several columns named {twice!r}; rename them")
    return pl.DataFrame([_column(str(name), data[name]) for name in data.columns])


def _column(name: str, values: Any) -> pl.Series:
    """Return a column of pandas: numbers, times or texts."""
    import polars as pl  # noqa: PLC0415

    zone = getattr(values.dtype, "tz", None)
    if zone is not None:
        times = values.dt.tz_convert("UTC").dt.tz_localize(None)
        return (
            pl.Series(name, _times(times))
            .dt.replace_time_zone("UTC")
            .dt.convert_time_zone(str(zone))
        )
    if values.dtype.kind in "iufb":
        array = values.to_numpy(dtype=float, na_value=np.nan) if values.isna().any() else values
        return pl.Series(name, np.asarray(array), nan_to_null=True)
    if values.dtype.kind == "M":
        return pl.Series(name, _times(values))
    missing = values.isna().tolist()
    several = values.tolist()
    return pl.Series(
        name,
        [None if gone else one for one, gone in zip(several, missing, strict=True)],
        strict=False,
    )


def _times(values: Any) -> np.ndarray:
    """Return times in a unit that polars has, which seconds are not."""
    times: np.ndarray = values.to_numpy()
    return times if times.dtype == "M8[ns]" else times.astype("M8[us]")


def digest_of(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of a frame's columns: their names, types and values."""
    digest = hashlib.sha256(repr(list(frame.schema.items())).encode())
    for column in frame:
        content = io.BytesIO()
        column.to_frame().write_ipc(content)
        digest.update(content.getbuffer())
    return digest.hexdigest()
