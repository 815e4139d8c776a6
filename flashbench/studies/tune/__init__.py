"""`flashbench tune`: finds the fastest block sizes on this CPU, and whether they beat the built-in ones."""
