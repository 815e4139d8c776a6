"""Reports: from records to tables, charts and pages. Nothing here measures."""
