"""Example subjects with known truth, simulated on the spot."""
