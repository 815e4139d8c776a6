"""Records to tables: nothing here measures or computes anything a record does not hold."""
