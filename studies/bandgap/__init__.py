"""Band gaps: how sure a forest is of them, and what models make of silicon-germanium."""
