"""Passes over one row of materialised scores."""
