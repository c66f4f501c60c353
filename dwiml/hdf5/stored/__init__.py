"""Safe reading of untrusted or damaged HDF5 files.

Links are followed inside the file only, sizes are checked against the size of the file, and each error is one sentence.
"""

from dwiml.hdf5.stored.datasets import StoredDataset
from dwiml.hdf5.stored.identity import FileIdentity
from dwiml.hdf5.stored.layout import open_hdf5
from dwiml.hdf5.stored.nodes import StoredFile, StoredGroup

__all__ = ["FileIdentity", "StoredDataset", "StoredFile", "StoredGroup", "open_hdf5"]
