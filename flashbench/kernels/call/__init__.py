"""The arguments of a kernel call, and how kernels read them."""
