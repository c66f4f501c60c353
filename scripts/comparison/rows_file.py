"""The JSON file of a script that measures one row after the other, and continues where it was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dwiml.files import read_json, write_json


class RowsFile:
    """The rows that were measured, in a JSON file that is complete at any time.

    Parameters
    ----------
    path
        The file; it may be missing.
    options
        What all rows have in common, as JSON has it.
    option
        Beginning of error messages.

    Attributes
    ----------
    rows
        Those of the file, then those that were added.

    Raises
    ------
    ValueError
        If the file is not one of this class, or was made with other options.
    OSError
        If it cannot be read.
    """

    def __init__(self, path: Path, options: dict[str, Any], option: str = "--json") -> None:
        self._path, self._options = path, options
        self.rows: list[dict[str, Any]] = []
        if not path.exists():
            return
        found = read_json(path, option)
        rows = found.get("rows") if isinstance(found, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{option}: '{path}' is not a file of this script; give another name.")
        if found.get("options") != options:
            raise ValueError(f"{option}: '{path}' was made with other options, data or weights; give another name.")
        self.rows = rows

    def find(self, **key: Any) -> dict[str, Any] | None:
        """Return the first row with these values, or None."""
        return next((row for row in self.rows if all(row.get(name) == value for name, value in key.items())), None)

    def add(self, *rows: dict[str, Any]) -> None:
        """Add rows, and write the file."""
        self.rows.extend(rows)
        write_json(self._path, {"options": self._options, "rows": self.rows})
