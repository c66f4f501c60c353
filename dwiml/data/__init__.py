"""Read an HDF5 file of many subjects, into memory or memory-mapped."""
