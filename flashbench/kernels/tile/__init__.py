"""Passes over one tile of scores s[key, query lane]."""
