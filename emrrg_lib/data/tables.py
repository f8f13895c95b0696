"""CSV tables of a source as pandas frames of text, with one sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..errors import InputError


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Reads these columns of a CSV (or .csv.gz) as text; an empty cell is an empty text.

    Raises:
        InputError: the file is missing, not UTF-8, no CSV, or a column is missing.
    """
    try:
        table = pd.read_csv(path, usecols=lambda name: name in columns, dtype=str, encoding="utf-8-sig",
                            keep_default_na=False)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}: {error.reason}); save it again as "
                         "UTF-8 or fetch it again") from error
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"cannot read {path} as CSV: {str(error).strip() or 'it is cut off'}") from error
    if missing := [name for name in columns if name not in table]:
        raise InputError(f"{path} has no column {missing[0]!r}: is it the file the source gave out?")
    return table[list(columns)]
