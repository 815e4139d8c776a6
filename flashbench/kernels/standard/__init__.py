"""Attention with materialised scores, stage by stage."""
