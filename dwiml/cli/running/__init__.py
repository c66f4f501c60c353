"""What commands share while they run: their input files, their progress, the signals of a training."""
