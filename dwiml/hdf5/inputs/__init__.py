"""From the files of a subject to the arrays of its groups: find, check, read, standardize."""
