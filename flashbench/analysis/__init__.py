"""Conclusions from records alone, without measuring."""
