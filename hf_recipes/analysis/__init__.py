"""Analysis: predictions in, results.json out."""
