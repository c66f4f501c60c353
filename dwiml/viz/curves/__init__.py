"""Training curves: what is read, what is drawn, and how."""
