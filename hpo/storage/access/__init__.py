"""How a database is reached: SQLite files that are read without a change, and outages."""
