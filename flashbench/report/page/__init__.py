"""The one-file page: what it says, its tables, its charts inside it, and its template."""
