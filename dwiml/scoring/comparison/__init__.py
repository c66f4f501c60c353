"""Compare the scores of tractograms: totals, confidence intervals, repeated trackings, and invalid connections."""
