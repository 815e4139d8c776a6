"""Attention on many hosts, computed before it is run: tasks, bytes, memory and time."""
