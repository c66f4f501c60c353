"""Score tractograms against a ground truth: connections, bundles, overlap."""
