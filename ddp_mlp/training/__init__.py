"""One run: where maths meets MPI meets files."""
