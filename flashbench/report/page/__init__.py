"""The page: one file with words, tables and charts, and its template."""
