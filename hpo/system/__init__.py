"""What the operating system says and gives: files, file systems, cores, memory, threads."""
