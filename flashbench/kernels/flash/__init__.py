"""Tiled attention: forward, backward, the mask's gradient and decoding."""
