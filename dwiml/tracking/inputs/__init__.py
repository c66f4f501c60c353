"""Check the volume that a model receives in tracking against those of its training."""
