"""A page about experiments, in one file that needs no network."""
