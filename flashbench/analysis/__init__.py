"""What follows from records alone, without measuring."""
