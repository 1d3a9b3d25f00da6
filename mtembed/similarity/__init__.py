"""Rows that are like a query: exact scans, an index for large datasets, filters, examples, pictures of the hits."""
