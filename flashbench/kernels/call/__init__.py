"""What a call passes to its kernels, by name."""
