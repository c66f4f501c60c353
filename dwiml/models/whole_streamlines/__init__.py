"""Models that receive whole streamlines, each with the same number of points."""
