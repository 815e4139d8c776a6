"""What each command does, returning records."""
