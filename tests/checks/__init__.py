"""What several tests ask, each asked of more than one thing: MPI and its simulation, the program and its faults."""
