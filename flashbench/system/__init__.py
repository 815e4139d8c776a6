"""What the operating system allows this process: cores and CPU time; and the files that say so."""
