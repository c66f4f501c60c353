"""How much of a known truth a tractogram holds: connections, bundles, overlap."""
