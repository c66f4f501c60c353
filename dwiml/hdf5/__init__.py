"""Create one HDF5 file from the NIfTI volumes and tractograms of many subjects."""
