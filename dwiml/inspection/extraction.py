"""Write a group of an HDF5 file to the formats of other programs."""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from dwiml.arguments import counted, quoted
from dwiml.data.affines import checked_affine
from dwiml.data.connectivity import read_connectivity
from dwiml.data.streamlines import SubjectStreamlines
from dwiml.data.volumes import SubjectVolume
from dwiml.files import atomic_write, check_outputs, refuse_inputs, write_json
from dwiml.hdf5 import schema
from dwiml.hdf5.directions.alignment import recorded_statistics
from dwiml.hdf5.directions.recorded import stored_directions
from dwiml.hdf5.directions.sidecar import image_sidecar, sidecar_text
from dwiml.hdf5.inputs.connectivity import check_labels_file, labels_path, write_row_labels
from dwiml.hdf5.stored import StoredFile, StoredGroup, open_hdf5
from dwiml.hdf5.stored.collection import HDF5Files, file_of_subject, files_of
from dwiml.hdf5.stored.layout import groups_config, groups_of_type, subject_lists
from dwiml.hdf5.stored.provenance import provenance_of
from dwiml.ops.axes.conventions import Directions
from dwiml.ops.ragged import slabs
from dwiml.ops.regions import LabelRegions
from dwiml.params import checks_arguments
from dwiml.tractograms.writing.partial import partial_of
from dwiml.tractograms.writing.sidecar import describe, tractogram_sidecar
from dwiml.tractograms.writing.writer import FORMATS, TractogramWriter

logger = logging.getLogger(__name__)

IMAGES, MATRICES = (".nii.gz", ".nii"), (".npy",)
_SLAB_POINTS = 2**20
# gzip's fastest levels: the values of a standardized volume are hardly compressible.
_GZIP_LEVEL = 4


@checks_arguments
def extract_hdf5(
    path: HDF5Files,
    subject: str,
    group: str,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    sidecar: bool = False,
    original_values: bool = False,
) -> str:
    """Write a group of a subject to a file that other programs read.

    Values are as in the HDF5 file: volumes as standardized, streamlines as resampled when it was created.

    Parameters
    ----------
    path
        The HDF5 file; or a folder or a list of files, for the one that has the subject.
    subject, group
        The subject and its group.
    out
        The file to write. A volume: ``.nii.gz`` or ``.nii``, float32, with its affine; if its features are directional,
        with their convention in a JSON file beside it, as :mod:`dwiml.hdf5.directions.sidecar` reads it. Streamlines:
        ``.trk``, ``.trx`` or ``.tck``, with their data per streamline, which a .tck file cannot hold. The connectivity
        of a streamlines group: ``.npy``; if its regions are labels, with ``OUT_labels.txt``, the label of each row, and
        ``OUT_labels.nii.gz``, the label of each voxel, beside it.
    overwrite
        Replace existing files.
    sidecar
        Also write a JSON file beside a tractogram, with the provenance of the group.
    original_values
        Undo the standardization of a volume, with the means and standard deviations that the file records.

    Returns
    -------
    str
        A line that says what was written.

    Raises
    ------
    FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError
        If the HDF5 file does not exist, or the output cannot be written.
    ValueError
        If there is no such subject or group, its content does not fit the extension, or it is damaged.
    """
    out = Path(out)
    inputs = files_of(path)
    with open_hdf5(file_of_subject(inputs, subject)) as file:
        node, is_volume = _find(file, subject, group)
        suffix = _suffix_of(out, is_volume=is_volume, name=f"{subject}/{group}")
        if sidecar and suffix not in FORMATS:
            raise ValueError(f"sidecar=True is for tractograms; '{out}' is not one.")
        if original_values and not is_volume:
            raise ValueError(f"original_values=True is for volumes; '{subject}/{group}' is a streamlines group.")
        outputs = {"OUT": out}
        if sidecar:
            outputs["The sidecar of OUT"] = tractogram_sidecar(out)
        # Also where none will be written: the one of another image would be taken for that of this one.
        elif is_volume and (_only_convention(node, group) or os.path.lexists(image_sidecar(out))):
            outputs["The sidecar of OUT"] = image_sidecar(out)
        check_outputs(outputs, inputs=inputs, overwrite=overwrite)
        if is_volume:
            return _write_volume(file, node, group, out, original_values=original_values)
        if suffix in MATRICES:
            return _write_connectivity(node, group, out, overwrite=overwrite)
        refuse_inputs(partial_of(Path(os.path.realpath(out))), "OUT, until it is whole", inputs=inputs)
        content = _sidecar(node, group) if sidecar else None
        return _write_streamlines(node, group, out, content, overwrite=overwrite)


def _find(file: StoredFile, subject: str, group: str) -> tuple[StoredGroup, bool]:
    """Return the node of a subject, and whether its group is a volume."""
    known = [name for names in subject_lists(file).values() for name in names]
    if subject not in known:
        raise ValueError(f"Subject '{subject}' not found in '{file.path}'; it has: {quoted(known, 20)}.")
    node = file.root.group(subject)
    volumes, lines = (groups_of_type(node, kind) for kind in (schema.TYPE_VOLUME, schema.TYPE_STREAMLINES))
    if group not in (*volumes, *lines):
        raise ValueError(
            f"Group '{group}' of subject '{subject}' not found in '{file.path}'; it has: {quoted([*volumes, *lines])}."
        )
    return node, group in volumes


def _suffix_of(out: Path, *, is_volume: bool, name: str) -> str:
    """Return the extension of the output, in lower case, if the group can be written with it."""
    allowed = IMAGES if is_volume else (*FORMATS, *MATRICES)
    suffix = next((each for each in allowed if out.name.lower().endswith(each)), None)
    if suffix is None:
        other = "" if is_volume else f", or {MATRICES[0]} for their connectivity"
        raise ValueError(
            f"OUT must end in {' or '.join(IMAGES if is_volume else FORMATS)}{other}, because '{name}' is a "
            f"{'volume' if is_volume else 'streamlines'} group; got '{out}'."
        )
    return suffix


def _standardization(file: StoredFile, group: str) -> str:
    return str(groups_config(file).get(group, {}).get("standardization", "none"))


def _write_volume(file: StoredFile, node: StoredGroup, group: str, out: Path, *, original_values: bool) -> str:
    volume, standardization = SubjectVolume(node, group, lazy=True), _standardization(file, group)
    values = volume.as_tensor().numpy()
    if original_values and standardization != "none":
        recorded = recorded_statistics(node.group(group), volume.nb_features)
        if recorded is None:
            raise ValueError(
                f"The means and standard deviations of the standardization of group '{group}' are not recorded in "
                f"'{file.path}', so its original values are unknown."
            )
        means, deviations = (each.astype(np.float32) for each in recorded)
        values, standardization = values * deviations + means, "none"
    known = _only_convention(node, group)
    image = nib.Nifti1Image(values[..., 0] if volume.nb_features == 1 else values, volume.affine)
    beside = image_sidecar(out)
    # The convention of a previous image must never accompany this one.
    _write_image(image, out, before_naming=lambda: beside.unlink(missing_ok=True))
    notes = [] if standardization == "none" else [f"standardized ({standardization})"]
    if known is not None:
        write_json(beside, sidecar_text(known, volume.nb_features))
        notes.append(f"its convention in {beside.name}")
    elif node.group(group).has_attribute(schema.DIRECTIONS):
        notes.append("directional features in voxel axes, as 'dwiml info' lists them")
    sizes = " x ".join(map(str, volume.shape[:3]))
    return ", ".join([f"{out}: {sizes} voxels", counted(volume.nb_features, "feature"), *notes])


def _only_convention(node: StoredGroup, group: str) -> Directions | None:
    """Return the convention in which a volume group is stored, if it was created from one image, and is known."""
    recorded = stored_directions(node.group(group), f"volume group '{group}' of subject '{node.name}'")
    return recorded[0].stored if len(recorded) == 1 else None


def _write_image(image: Any, out: Path, before_naming: Callable[[], None] | None = None) -> None:
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)

    def save(stream: IO[bytes]) -> None:
        image.to_file_map({"image": nib.FileHolder(fileobj=stream), "header": nib.FileHolder(fileobj=stream)})

    with atomic_write(out, before_naming=before_naming) as stream:
        if out.name.lower().endswith(".gz"):
            # Without a name and a time, so that the same data give the same bytes.
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, stream, mtime=0) as compressed:
                save(compressed)  # type: ignore[arg-type]
        else:
            save(stream)


def _sidecar(node: StoredGroup, group: str) -> dict[str, Any]:
    place, recorded = Path(f"{node.file.path}:/{node.name}/{group}"), provenance_of(node.group(group))
    more = {"dwiml": {"provenance": recorded}} if recorded else {}
    return describe("Streamlines of an HDF5 file.", [place], more)


def _write_streamlines(
    node: StoredGroup, group: str, out: Path, sidecar: dict[str, Any] | None, *, overwrite: bool
) -> str:
    streamlines = SubjectStreamlines(node, group, lazy=True)
    grid = streamlines.grid_of(_shape_of_volumes(node, streamlines))
    keys = list(streamlines.data_per_streamline)
    if keys and out.suffix.lower() == ".tck":
        logger.warning("A .tck file cannot hold data per streamline: %s not written.", quoted(keys))
        keys = []
    widths = {key: streamlines.data_per_streamline_size(key) for key in keys}
    with TractogramWriter(out, grid=grid, data_per_streamline=widths, overwrite=overwrite, sidecar=sidecar) as writer:
        for some, _ in slabs(streamlines.lengths, _SLAB_POINTS):
            data = {key: streamlines.gather_data_per_streamline(key, some) for key in keys}
            writer.append(*streamlines.gather(some), data)
    named = f", data per streamline: {', '.join(keys)}" if keys else ""
    return (
        f"{out}: {counted(len(streamlines), 'streamline')}, {counted(int(streamlines.lengths.sum()), 'point')}{named}"
    )


def _shape_of_volumes(node: StoredGroup, streamlines: SubjectStreamlines) -> tuple[int, int, int]:
    """Return the shape of the first volume of a subject; it is needed if that of the streamlines is not recorded."""
    if streamlines.dimensions.all():
        x, y, z = streamlines.dimensions.tolist()
        return x, y, z
    for group in groups_of_type(node, schema.TYPE_VOLUME):
        return SubjectVolume(node, group, lazy=True).grid.shape
    raise ValueError(
        f"The {streamlines.label} has no '{schema.DIMENSIONS}', and the subject no volume, so the voxel grid of the "
        "tractogram is unknown; recreate the HDF5 file."
    )


def _write_connectivity(node: StoredGroup, group: str, out: Path, *, overwrite: bool) -> str:
    # It also checks that the matrix is valid.
    connectivity = read_connectivity(node.file.path, node.name, group)
    if connectivity is None:
        raise ValueError(
            f"Streamlines group '{group}' of subject '{node.name}' has no connectivity matrix, so '{out}' cannot be "
            f"written; its streamlines can: {', '.join(FORMATS)}."
        )
    stored, regions = node.group(group), connectivity.regions
    matrix = stored.dataset(schema.CONNECTIVITY_MATRIX).read()
    names, labels = labels_path(out), out.with_name(f"{out.stem}_labels.nii.gz")
    check_labels_file(names)
    is_labeled = isinstance(regions, LabelRegions)
    # Also where none will be written: the labels of the previous matrix must never accompany the new one.
    beside = [path for path in (names, labels) if is_labeled or os.path.lexists(path)]
    check_outputs({path.name: path for path in beside}, inputs=[node.file.path], overwrite=overwrite)

    def remove_labels() -> None:
        for path in beside:
            path.unlink(missing_ok=True)

    with atomic_write(out, before_naming=remove_labels) as stream:
        np.lib.format.write_array(stream, matrix, allow_pickle=False)
    shape = f"{out}: {len(matrix)} x {len(matrix)}"
    if not isinstance(regions, LabelRegions):
        return f"{shape} blocs ({' x '.join(map(str, regions.nb_blocs))} in the volume)"
    # dwi_ml may count the background (label 0) as the first row.
    write_row_labels(out, [0] * (len(matrix) - len(regions.values)) + regions.values.tolist())
    volume = _as_labels(stored.dataset(schema.CONNECTIVITY_LABEL_VOLUME).read())
    _write_image(nib.Nifti1Image(volume, checked_affine(stored.attribute(schema.AFFINE), f"group '{group}'")), labels)
    return f"{shape} regions; their labels in {names.name} and {labels.name}"


def _as_labels(volume: NDArray[Any]) -> NDArray[Any]:
    """Return a label volume in a type that NIfTI has."""
    largest = int(volume.max())
    return volume.astype(np.int16 if largest < 2**15 else np.int32 if largest < 2**31 else np.float64)
