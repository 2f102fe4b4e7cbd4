"""Many trainings in one job: what is tried, in what order, by which ranks, and what came of it."""
