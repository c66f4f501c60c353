"""Create the output folder atomically: it appears when it is complete, and only replaces an older phantom."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dwiml.files import check_output_folder, read_json

MANIFEST = "phantom.json"


@contextmanager
def new_folder(out_dir: Path, *, overwrite: bool, description: Mapping[str, Any]) -> Iterator[Path]:
    """Create a folder atomically (context manager).

    The files are written in a temporary folder beside `out_dir`, which is renamed to `out_dir` at the end, after a
    manifest of the files was added. On any error, the temporary folder is deleted and `out_dir` is left unchanged.

    Parameters
    ----------
    out_dir
        The folder to create. It may exist if it is empty.
    overwrite
        Replace `out_dir` if its manifest lists all the files that it contains.
    description
        Additional entries of the manifest; JSON values.

    Yields
    ------
    Path
        The temporary folder.

    Raises
    ------
    FileExistsError
        If `out_dir` is not empty and `overwrite` is False, or if it contains files that its manifest does not list.
    NotADirectoryError
        If `out_dir` is a file.
    ValueError
        If `out_dir` is the current working folder or one of its parents.
    """
    target = Path(os.path.realpath(out_dir))
    _check_target(out_dir, target, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    unique = uuid.uuid4().hex[:8]
    work = target.parent / f".{target.name}.{unique}.partial"
    work.mkdir()
    try:
        yield work
        files = sorted(_files_in(work))
        (work / MANIFEST).write_text(json.dumps({**description, "files": files}, indent=1) + "\n", encoding="utf-8")
        # Files may have been added to the folder in the meantime.
        _check_target(out_dir, target, overwrite=overwrite)
        _swap(work, target, target.parent / f".{target.name}.{unique}.old")
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _check_target(out_dir: Path, target: Path, *, overwrite: bool) -> None:
    if not target.is_dir():
        # A file, a cycle of symbolic links, or a place where no folder can be created.
        check_output_folder(target, (), "OUT_DIR", overwrite=overwrite)
    if target in (Path.cwd(), *Path.cwd().parents):
        raise ValueError(f"'{out_dir}' is the current folder or contains it; give the name of a new folder.")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(
            f"Folder '{out_dir}' exists and is not empty; choose another one, or replace it with overwrite=True."
        )
    unlisted = _files_in(target) - _files_of_manifest(target)
    if unlisted:
        raise FileExistsError(
            f"Folder '{out_dir}' contains {len(unlisted)} file(s) that dwiml phantom did not create (for example "
            f"'{min(unlisted)}'), so it cannot be replaced; move them elsewhere or choose another folder."
        )


def _files_in(folder: Path) -> set[str]:
    """Return the relative paths of the files, symbolic links and empty folders in a folder."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir()):
            found.add(path.relative_to(folder).as_posix())
    return found


def _files_of_manifest(folder: Path) -> set[str]:
    try:
        manifest = read_json(folder / MANIFEST)
        return {MANIFEST, *map(str, manifest["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _swap(work: Path, target: Path, old: Path) -> None:
    """Rename `work` to `target`, so that `target` is complete at any time; restore the old one on an error."""
    if not target.exists():
        work.rename(target)
        return
    target.rename(old)
    try:
        work.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)
