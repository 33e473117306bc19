"""Training: the run, its loop, and what listens to it."""
