"""Functions on vectors: exponential, tanh, random bits, dot products."""
