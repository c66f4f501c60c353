"""Features that depend on directions (spherical harmonics, peaks, tensors): their conventions and conversions."""
