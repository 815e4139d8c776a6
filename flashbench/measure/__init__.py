"""Measuring any callable: time, memory, machine. Nothing here knows what attention is."""
