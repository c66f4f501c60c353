"""Pure functions on arrays and tensors: no files, no logging, no global random state."""
