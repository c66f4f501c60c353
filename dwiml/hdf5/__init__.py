"""Chapter 1, write: NIfTI volumes and tractograms become one HDF5 file."""
