"""Engine `flash`: block sizes, plan and calls of its kernels."""
