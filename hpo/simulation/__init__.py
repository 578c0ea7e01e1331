"""Workers on a simulated clock: what a cluster of thousands would do."""
