"""The convention of directional features in the HDF5 file, and whether they follow the streamlines."""
