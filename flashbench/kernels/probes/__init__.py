"""Kernels that measure the hardware's limits."""
