"""Files are opened and written in one place; each module that does so by itself says here why."""

from __future__ import annotations

import ast
from pathlib import Path

import dwiml

PACKAGE = Path(dwiml.__file__).parent
OPENERS = {
    "open",
    "os.open",
    "os.replace",
    "h5py.File",
    "nib.load",
    "nib.streamlines.load",
    "torch.load",
    "np.load",
    "np.memmap",
    "np.lib.format.open_memmap",
    "json.load",
    "zipfile.ZipFile",
    "gzip.open",
}
METHODS = {"read_text", "read_bytes", "write_text", "write_bytes"}
# What dwiml.files does not do for them.
BY_ITSELF = {
    "batching.workers": "reads /proc",
    "cli.create_hdf5": "reads a layout that is part of dwiml",
    "hdf5.adding": "h5py makes a root in memory, to compare it",
    "hdf5.copying": "h5py copies a subject without reading its values",
    "hdf5.inputs.connectivity": "maps a .npy, within explained()",
    "hdf5.part_folder": "locks and removes the folder of unfinished parts",
    "hdf5.workers": "writes in /proc",
    "hdf5.stored.open_file": "the one place that opens HDF5 files to read",
    "hdf5.file_writer": "h5py writes a temporary file, which takes its name when it is whole",
    "phantom.create": "writes into a new folder, which takes its name when it is whole",
    "phantom.output": "the same",
    "tractograms.writing.appending": "appends to a partial file",
    "tractograms.writing.single_file": "the partial file takes its name",
    "tractograms.writing.trx_folder": "the same, of a folder",
    "tractograms.writing.partial": "locks a partial file",
    "tractograms.with_nibabel": "nibabel, within explained()",
    "tractograms.trx_file": "reads the members of an archive, within explained()",
    "training.experiment.checkpoint": "the latest becomes the previous",
    "training.experiment.holder": "reads /proc",
    "training.experiment.lock": "makes a lock, links never followed",
    "training.reporting.loggers.comet": "reads the archive that comet_ml has made",
    "training.reporting.loggers.lines_file": "appends lines, links never followed",
    "training.reporting.loggers.tensorboard": "cuts a file of TensorBoard back, links never followed",
    "training.reporting.memory": "reads /proc",
    "training.cluster.stopping": "reads /proc",
    "user_classes.finding": "reads the Python file that the user names, for its classes",
    "user_classes.from_file.__init__": "the same, for its imports",
    "user_classes.source": "the same, for its digest",
    "viz.page.html": "reads the style and the script that are part of dwiml",
}


def openers(source: str) -> set[str]:
    """Return what a source calls to open, read or write a file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            # schema.read_text reads an attribute.
            if name in OPENERS or (name.rpartition(".")[2] in METHODS and not name.startswith("schema.")):
                found.add(name)
    return found


def test_the_check_sees_what_opens_files() -> None:
    source = "json.load(stream)\nPath(name).read_text()\nwith open(a) as b: pass\nschema.read_text(value)\ns.read()"
    assert openers(source) == {"json.load", "Path(name).read_text", "open"}


def test_files_are_opened_and_written_in_one_place() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not module.startswith("files.") and openers(path.read_text(encoding="utf-8")):
            found.add(module)
    assert found == set(BY_ITSELF)
