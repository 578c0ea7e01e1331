"""One worker: its loop, signals, sampler and pruner. May import `study` and `objectives`."""
