"""Default tolerances of the scores."""

# One or two voxels: masks drawn from true streamlines have gaps, and trackers cut corners.
MASK_TOLERANCE_MM = 3.0
# End regions are used as they were drawn.
END_TOLERANCE_MM = 0.0
MAX_OUTSIDE = 0.05
# Ground truths in scilpy's format.
PRESETS = ("ismrm2015",)
MIN_COVERAGE = 0.5
# A larger value is most likely a mistake in the unit.
MOST_TOLERANCE_MM = 1000.0
