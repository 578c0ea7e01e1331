"""Commands around studies: tables, databases, copies, tracking, checks, benchmarks."""
