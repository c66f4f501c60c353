"""Training on a cluster: several processes, signals, time limits, SLURM."""
