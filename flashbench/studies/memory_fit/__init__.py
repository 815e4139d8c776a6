"""Whether a call or a training step fits in memory, computed before anything runs."""
