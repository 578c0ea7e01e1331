"""Materials, tables and families that tests share."""
