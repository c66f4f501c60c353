"""Write tractograms incrementally."""
