"""What an HDF5 file of subjects contains, from its structure and its small datasets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from dwiml.arguments import counted, grouped
from dwiml.data.affines import checked_affine
from dwiml.hdf5 import schema
from dwiml.hdf5.stored import StoredFile, StoredGroup, open_hdf5
from dwiml.hdf5.stored.layout import checked_group, groups_config, groups_of_type, subject_lists
from dwiml.hdf5.stored.provenance import provenance_of
from dwiml.inspection.text import by, cut, length_summary, lengths_text, pairs, plain, size, table
from dwiml.ops.spaces import parse_origin, parse_space
from dwiml.tractograms.grid import Grid

# Subjects whose groups are printed one by one.
_MOST_SUBJECTS = 10
_WIDTH = 100
_LONGEST_COMMAND = 2000
_RESAMPLING = {schema.STEP_SIZE: "step size {} mm", schema.NB_POINTS: "{} points", schema.COMPRESS: "compressed, {} mm"}
# Attributes that are described otherwise, or repeat others.
_ROOT = frozenset(
    {schema.VERSION, schema.CHOSEN_SUBJS, schema.GROUPS_CONFIG, schema.GROUPS_FILES, schema.DATE_AND_TIME}
    | {schema.DIGEST, schema.PROVENANCE, *schema.SUBJECT_LISTS.values(), *_RESAMPLING}
)
_GROUP = frozenset(
    {schema.TYPE, schema.AFFINE, schema.VOXRES, schema.NB_FEATURES, schema.SPACE, schema.ORIGIN, schema.DIMENSIONS}
    | {schema.VOXEL_SIZES, schema.VOXEL_ORDER, schema.DIGEST, schema.PROVENANCE}
    | {schema.CONNECTIVITY_MATRIX_TYPE, schema.CONNECTIVITY_NB_BLOCS}
)


def describe_hdf5(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what an HDF5 file contains; neither points nor volumes are read.

    Parameters
    ----------
    path
        A file created by ``dwiml create_hdf5`` or by dwi_ml.

    Returns
    -------
    dict
        JSON values: ``kind`` (``"hdf5"``), ``path``, ``nb_bytes``, ``schema_version``, ``created``, ``has_digests``,
        ``resampling``, ``provenance``, ``attributes`` (others of the root), ``subjects`` by set, ``groups_config``, and
        ``data``: for each subject and group, its shape or counts, its grid, its size on the disk (``nb_bytes``), its
        provenance and its other attributes. Lengths are in mm.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        If the file cannot be opened, or is damaged. The message names the file and the object.
    """
    with open_hdf5(path) as file:
        root = file.root
        lists = subject_lists(file)
        return {
            "kind": "hdf5",
            "path": str(path),
            "nb_bytes": file.identity.nb_bytes,
            "schema_version": plain(root.attribute(schema.VERSION)),
            "created": plain(root.attribute(schema.DATE_AND_TIME)),
            "has_digests": root.has_attribute(schema.DIGEST),
            "resampling": {name: _number(root.attribute(name)) for name in _RESAMPLING},
            "provenance": plain(provenance_of(root)),
            "attributes": _others(root, _ROOT),
            "subjects": lists,
            "groups_config": groups_config(file),
            "data": {name: _describe_subject(file, name) for names in lists.values() for name in names},
        }


def _number(value: Any) -> Any:
    """Return the value of an option; None if it is the text for an option that was not given."""
    value = plain(value)
    return value if isinstance(value, (int, float)) else None


def _others(node: StoredGroup, known: frozenset[str]) -> dict[str, Any]:
    return {name: _parsed(value) for name, value in node.attributes().items() if name not in known}


def _parsed(value: Any) -> Any:
    """Return an attribute; one that is the text of a JSON object or list is parsed."""
    value = plain(value)
    if isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            return plain(json.loads(value))
    return value


def _describe_subject(file: StoredFile, name: str) -> dict[str, Any]:
    subject = file.root.group(name)
    found = {group: _describe_volume(subject, group) for group in groups_of_type(subject, schema.TYPE_VOLUME)}
    for group in groups_of_type(subject, schema.TYPE_STREAMLINES):
        found[group] = _describe_streamlines(subject, group)
    return found


def _describe_volume(subject: StoredGroup, group: str) -> dict[str, Any]:
    node = checked_group(subject, group, [schema.DATA], [schema.AFFINE])
    shape = node.dataset(schema.DATA).shape
    dimensions = shape[:3] if len(shape) == 4 else (0, 0, 0)
    return {
        "type": schema.TYPE_VOLUME,
        "shape": list(shape),
        **_grid(node, dimensions, f"volume group '{group}' of subject '{subject.name}'"),
        "nb_bytes": _nb_bytes(node),
        "provenance": plain(provenance_of(node)),
        "attributes": _others(node, _GROUP),
    }


def _describe_streamlines(subject: StoredGroup, group: str) -> dict[str, Any]:
    node = checked_group(subject, group, [schema.DATA, schema.LENGTHS], [schema.AFFINE])
    lengths_mm = node.dataset(schema.EUCLIDEAN_LENGTHS).read() if schema.EUCLIDEAN_LENGTHS in node else None
    dimensions = np.ravel(node.attribute(schema.DIMENSIONS, (0, 0, 0))).tolist()
    return {
        "type": schema.TYPE_STREAMLINES,
        "nb_streamlines": int(np.prod(node.dataset(schema.LENGTHS).shape)),
        "nb_points": next(iter(node.dataset(schema.DATA).shape), 0),
        "length_mm": None if lengths_mm is None else length_summary(lengths_mm),
        "space": parse_space(schema.read_text(node.attribute(schema.SPACE, "vox"))),
        "origin": parse_origin(schema.read_text(node.attribute(schema.ORIGIN, "corner"))),
        "dimensions": plain(dimensions),
        **_grid(node, dimensions, f"streamlines group '{group}' of subject '{subject.name}'"),
        "data_per_streamline": _data_per_streamline(node),
        "connectivity": _connectivity(node),
        "nb_bytes": _nb_bytes(node),
        "provenance": plain(provenance_of(node)),
        "attributes": _others(node, _GROUP),
    }


def _grid(node: StoredGroup, dimensions: Any, label: str) -> dict[str, Any]:
    """Return the voxel sizes (mm), the voxel order and the affine of a group."""
    affine = checked_affine(node.attribute(schema.AFFINE), label)
    x, y, z = (*dimensions, 0, 0, 0)[:3]
    grid = Grid(affine, (x, y, z))
    sizes = [round(float(value), 5) for value in grid.voxel_sizes]
    return {"voxel_sizes_mm": sizes, "voxel_order": grid.voxel_order, "affine": affine.tolist()}


def _data_per_streamline(node: StoredGroup) -> dict[str, int]:
    """Return {name: number of values for each streamline}."""
    if schema.DATA_PER_STREAMLINE not in node:
        return {}
    group = node.group(schema.DATA_PER_STREAMLINE)
    return {name: int(np.prod(group.dataset(name).shape[1:])) for name in group.names if not group.is_group(name)}


def _connectivity(node: StoredGroup) -> dict[str, Any] | None:
    if schema.CONNECTIVITY_MATRIX not in node:
        return None
    matrix = node.dataset(schema.CONNECTIVITY_MATRIX)
    given = (owner.attribute(schema.CONNECTIVITY_MATRIX_TYPE) for owner in (node, matrix))
    kind = next((schema.read_text(each) for each in given if each is not None), None)
    return {"type": kind, "shape": list(matrix.shape)}


def _nb_bytes(node: StoredGroup) -> int:
    return sum(dataset.nb_bytes_stored for dataset in node.datasets())


def hdf5_text(found: Mapping[str, Any], *, all_subjects: bool = False) -> str:
    """Return the text of :func:`describe_hdf5`.

    Parameters
    ----------
    found
        Value of :func:`describe_hdf5`.
    all_subjects
        Print the groups of all subjects, not only of the first ten.
    """
    nb = len(found["data"])
    lines = [f"{found['path']}: HDF5 file of {counted(nb, 'subject')}, {size(found['nb_bytes'])}"]
    lines += pairs(_facts(found))
    lines += ["", "Sets", *_sets(found["subjects"], all_subjects=all_subjects)]
    lines += ["", "Groups", *_groups(found)]
    shown = dict(list(found["data"].items())[: nb if all_subjects else _MOST_SUBJECTS])
    lines += ["", "Subjects", *_subjects(shown)]
    if len(shown) < nb:
        lines.append(f"  and {counted(nb - len(shown), 'subject')} more (--all)")
    return "\n".join(lines)


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    version, resampling = found["schema_version"], found["resampling"]
    applied = [text.format(resampling[name]) for name, text in _RESAMPLING.items() if resampling[name] is not None]
    return {
        "layout": "as written by dwi_ml" if version is None else f"version {version} of dwiml",
        "created": cut(str(found["created"] or "not recorded"), _WIDTH),
        "resampling": ", ".join(applied) or "none",
        **_origin(found["provenance"]),
        "digests": "yes" if found["has_digests"] else "no: damaged values cannot be detected",
        **{name: cut(_text(value), _WIDTH) for name, value in found["attributes"].items()},
    }


def _origin(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the version and the command that created a file, if they are recorded."""
    names = {"by version": schema.DWIML_VERSION, "command": schema.COMMAND}
    return {name: cut(str(provenance[key]), _LONGEST_COMMAND) for name, key in names.items() if key in provenance}


def _text(value: Any) -> str:
    """Return the text of an attribute; one that maps names to values is written without the marks of JSON."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_text(each)}" for name, each in value.items())
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return " and ".join(", ".join(f"{key} {_text(item)}" for key, item in each.items()) for each in value if each)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _sets(subjects: Mapping[str, list[str]], *, all_subjects: bool) -> list[str]:
    rows = {}
    for name, listed in subjects.items():
        shown = listed if all_subjects else listed[:_MOST_SUBJECTS]
        more = f" and {grouped(len(listed) - len(shown))} more" if len(shown) < len(listed) else ""
        rows[name] = f"{grouped(len(listed))}{': ' if listed else ''}{', '.join(shown)}{more}"
    return pairs(rows)


def _groups(found: Mapping[str, Any]) -> list[str]:
    """Return a table of the groups of all subjects together."""
    rows = [("group", "type", "in all subjects", "size", "standardization", "files")]
    names = list(dict.fromkeys(group for groups in found["data"].values() for group in groups))
    for name in names:
        groups = [groups[name] for groups in found["data"].values() if name in groups]
        config = found["groups_config"].get(name, {})
        is_volume = groups[0]["type"] == schema.TYPE_VOLUME
        # dwiml's default is "none", that of dwi_ml is another one.
        default = "none" if config and found["schema_version"] else "not recorded"
        standardization = config.get("standardization", default) if is_volume else "-"
        total = size(sum(group["nb_bytes"] for group in groups))
        rows.append((name, groups[0]["type"], _in_all(groups), total, str(standardization), _files(config)))
    return table(rows)


def _in_all(groups: list[dict[str, Any]]) -> str:
    if len({group["type"] for group in groups}) > 1:
        return "of another type in other subjects"
    if groups[0]["type"] == schema.TYPE_VOLUME:
        numbers = sorted({group["shape"][-1] if group["shape"] else 0 for group in groups})
        return counted(numbers[0], "feature") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} features"
    nb_streamlines, nb_points = (sum(group[key] for group in groups) for key in ("nb_streamlines", "nb_points"))
    return f"{counted(nb_streamlines, 'streamline')}, {counted(nb_points, 'point')}"


def _files(config: Mapping[str, Any]) -> str:
    """Return the files of a group; with their numbers of features if those are recorded."""
    recorded = config.get(schema.FILES_FOUND)
    if isinstance(recorded, list) and all(isinstance(file, Mapping) for file in recorded):
        named = [f"{file.get(schema.FILE, '?')} ({file.get(schema.NB_FEATURES, '?')})" for file in recorded]
        return cut(", ".join(named), _LONGEST_COMMAND)
    files = config.get("files")
    return ", ".join(map(str, files)) if isinstance(files, list) else "not recorded"


def _subjects(data: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [("subject", "group", "size", "content")]
    for subject, groups in data.items():
        for name, group in groups.items():
            content = _volume_text(group) if group["type"] == schema.TYPE_VOLUME else _streamlines_text(group)
            others = [f"{key}: {_attribute_text(key, value)}" for key, value in group["attributes"].items()]
            files = group["provenance"].get(schema.FILES)
            others += [f"from {counted(len(files), 'file')}"] if isinstance(files, list) else []
            rows.append((subject, name, size(group["nb_bytes"]), "; ".join([content, *others])))
    return table(rows)


def _attribute_text(name: str, value: Any) -> str:
    """Return the text of an attribute of a group; of the directions, the convention in which they are stored."""
    stored = value.get(schema.DIRECTIONS_STORED) if name == schema.DIRECTIONS and isinstance(value, Mapping) else None
    if not isinstance(stored, list) or not all(isinstance(each, Mapping) for each in stored):
        return cut(_text(value), _WIDTH)
    conventions = []
    for each in stored:
        axes = f" in {each['axes']} axes" if "axes" in each else ""
        details = [str(each[key]) for key in ("basis", "order") if each.get(key)]
        details += [key for key in ("legacy", "full_basis") if each.get(key) is True]
        each_details = f" ({', '.join(details)})" if details else ""
        conventions.append(f"{each.get('kind', 'unknown')}{axes}{each_details}")
    return cut(" and ".join(conventions), _WIDTH)


def _volume_text(group: Mapping[str, Any]) -> str:
    *dimensions, nb = group["shape"] or [0]
    return (
        f"{by(dimensions)} voxels of {by(group['voxel_sizes_mm'])} mm, {group['voxel_order']}; {counted(nb, 'feature')}"
    )


def _streamlines_text(group: Mapping[str, Any]) -> str:
    parts = [f"{counted(group['nb_streamlines'], 'streamline')}, {counted(group['nb_points'], 'point')}"]
    if group["nb_streamlines"]:
        parts.append(lengths_text(group["length_mm"]))
    parts.append(f"{group['space']}, {group['origin']}")
    data = group["data_per_streamline"]
    if data:
        parts.append("per streamline: " + ", ".join(f"{name} ({width})" for name, width in data.items()))
    if group["connectivity"] is not None:
        parts.append(f"connectivity {by(group['connectivity']['shape'])}, {group['connectivity']['type']}")
    return "; ".join(parts)
