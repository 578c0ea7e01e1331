"""The operating system: files, file systems, cores, memory, threads."""
