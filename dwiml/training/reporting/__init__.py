"""What is measured while training, and who is told."""
