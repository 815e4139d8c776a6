"""`flashbench tune`: which block sizes are fastest on this CPU, and whether they beat the built-in ones."""
