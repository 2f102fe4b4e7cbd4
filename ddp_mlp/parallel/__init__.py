"""Who computes what, and how sums over ranks are formed."""
