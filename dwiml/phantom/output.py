"""A folder that appears whole or not at all, and that replaces nothing but an older one of its kind."""

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
    """Give a temporary folder to fill, beside `out_dir`; it takes the name of `out_dir` when all went well.

    A manifest of the files is written last, with the description. On any error the temporary folder is deleted and
    `out_dir` is as it was.

    Parameters
    ----------
    out_dir
        The folder to make. It may exist if it is empty.
    overwrite
        Replace `out_dir` if its manifest says that all its files were made here.
    description
        What else to write in the manifest (JSON).

    Raises
    ------
    FileExistsError
        `out_dir` holds files and `overwrite` is False, or holds files that are not in its manifest.
    NotADirectoryError
        `out_dir` is a file.
    ValueError
        `out_dir` is the current folder, which cannot be replaced under the user's feet.
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
        # The folder may have been filled meanwhile.
        _check_target(out_dir, target, overwrite=overwrite)
        _swap(work, target, target.parent / f".{target.name}.{unique}.old")
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _check_target(out_dir: Path, target: Path, *, overwrite: bool) -> None:
    if not target.is_dir():
        # Something that is not a folder, such as a circle of links, or a place where none can be made.
        check_output_folder(target, (), "OUT_DIR", overwrite=overwrite)
    if target in (Path.cwd(), *Path.cwd().parents):
        raise ValueError(f"'{out_dir}' is the current folder or holds it; give the name of a folder to make.")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"Folder '{out_dir}' exists and is not empty; choose another one, or replace it with -f.")
    strangers = _files_in(target) - _files_of_manifest(target)
    if strangers:
        raise FileExistsError(
            f"Folder '{out_dir}' holds {len(strangers)} file(s) that dwiml phantom did not make (for example "
            f"'{min(strangers)}'), so -f does not replace it; move them away or choose another folder."
        )


def _files_in(folder: Path) -> set[str]:
    """Names relative to the folder of all that it holds; a folder in it counts only when it is empty or a link."""
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
    """Put `work` in the place of `target`; there is never a moment with a half-made `target`."""
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
