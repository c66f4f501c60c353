"""Chapter 2, read: an HDF5 file of many subjects, in memory or memory-mapped."""
