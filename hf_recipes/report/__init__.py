"""The report: results.json in, words, figures and pages out."""
