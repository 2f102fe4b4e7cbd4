"""Reports: what finished and running runs have written, put into figures and a page."""
