"""What the operating system lets this process have: cores, CPU time, and the files that tell of it."""
