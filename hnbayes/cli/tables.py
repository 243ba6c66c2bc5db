"""Tables from files: CSV, TSV and Parquet."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from hnbayes.cli.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
PARQUET = (".parquet", ".pq")


def read_table(path: Path) -> pd.DataFrame:
    """The table in a file, its column names as text.

    Raises:
        InputError: if there is no such file, it is no table, or names of columns are missing or not distinct.
    """
    if not path.exists():
        raise InputError(f"there is no file {path}. Check the path.")
    if path.is_dir():
        raise InputError(f"{path} is a folder. Name a CSV, TSV or Parquet file.")
    ending = path.suffix.lower()
    if ending in PARQUET:
        table = _parquet(path)
    elif ending in SEPARATORS:
        table = _separated(path, SEPARATORS[ending])
    else:
        known = ", ".join([*SEPARATORS, *PARQUET])
        raise InputError(f"{path} must end in {known}; received {ending or 'no ending'!r}. Save it as one of these.")
    table.columns = [str(name).strip() for name in table.columns]
    if table.empty:
        raise InputError(f"{path} must have a header, columns and rows; it has {len(table)} rows. Add data.")
    return table


def _separated(path: Path, separator: str) -> pd.DataFrame:
    import pandas as pd

    try:
        # Read as text first: pandas would rename columns of the same name and take spare cells for an index.
        header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, encoding="utf-8-sig")
        names = [str(name).strip() for name in header.iloc[0].fillna("")]
        _check_names(path, names)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows longer than the header
            return pd.read_csv(path, sep=separator, encoding="utf-8-sig", index_col=False, names=names, header=0)
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty. It must have a header and rows.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be text in UTF-8: {error}. Save it as UTF-8.") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise InputError(
            f"{path} is no table: {str(error).strip()}. Every row needs as many cells as the header."
        ) from None


def _parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except ImportError:
        raise InputError(
            f"Parquet files such as {path} need pyarrow, which isn't installed. Run `pip install pyarrow`, or save the "
            "table as CSV."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no Parquet file: {_first_line(error)}. Save it again, or as CSV.") from None


def _check_names(path: Path, names: list[str]) -> None:
    if missing := [str(i + 1) for i, name in enumerate(names) if not name]:
        raise InputError(f"every column of {path} needs a name in the first row; column {missing[0]} has none.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"columns of {path} must have distinct names; {twice[0]!r} is there more than once. Rename it."
        )


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
