"""Labels: annotations and gold in, training labels of every variant out."""
