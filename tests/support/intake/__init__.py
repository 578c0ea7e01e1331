"""What foreign files hold, and what has to become of it: one corpus for tests and benchmarks."""
