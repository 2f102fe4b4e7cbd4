"""The rows of a data set, and how they become batches."""
