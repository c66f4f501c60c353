"""Look into files: what an HDF5 file, an experiment or a tractogram contains, as text, figures or separate files."""
