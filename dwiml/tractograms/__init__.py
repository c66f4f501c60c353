"""Read and check tractogram files."""
