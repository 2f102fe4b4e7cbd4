"""The exact sum: in which order gradients are added, so that its bits do not depend on the number of ranks."""
