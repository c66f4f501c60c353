"""The tolerances of the scores, unless others are asked for."""

# A voxel or two: true masks are drawn by streamlines, which leave gaps, and trackers cut corners.
MASK_TOLERANCE_MM = 3.0
# End regions are as large as whoever drew them found right.
END_TOLERANCE_MM = 0.0
MAX_OUTSIDE = 0.05
MIN_COVERAGE = 0.5
# More is a mistake in the unit, or no tolerance at all.
MOST_TOLERANCE_MM = 1000.0
