"""Engine `flash`: its plan, its block sizes, and its calls."""
