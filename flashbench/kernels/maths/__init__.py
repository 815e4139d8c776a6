"""Functions of numbers in vectors: exponential, tanh, random bits, dot products."""
