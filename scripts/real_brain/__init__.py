"""The parts of ``prepare_real_brain.py``: unpack, fit, track, check, cut in two."""
