"""Annotation: prompts and engines in, log-probabilities of labels out."""
