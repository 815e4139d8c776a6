"""Predicts whether a call or a training step fits in memory, before anything runs."""
