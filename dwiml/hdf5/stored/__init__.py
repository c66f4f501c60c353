"""An HDF5 file opened for reading: links kept inside it, sizes bounded by its own, every failure one sentence."""

from dwiml.hdf5.stored.datasets import StoredDataset
from dwiml.hdf5.stored.identity import FileIdentity
from dwiml.hdf5.stored.layout import open_hdf5
from dwiml.hdf5.stored.nodes import StoredFile, StoredGroup

__all__ = ["FileIdentity", "StoredDataset", "StoredFile", "StoredGroup", "open_hdf5"]
