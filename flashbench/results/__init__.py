"""The results file: its schema, and reading and writing it without ever losing one."""
