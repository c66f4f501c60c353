"""Curation of the streamlines of a training set: valid connections, without outliers, balanced between bundles."""
