"""Layouts: where the subjects, sessions and files of a dataset are, by the naming rules of a pipeline."""
