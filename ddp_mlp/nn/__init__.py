"""The maths, pure: arrays in, arrays out; no files, no MPI, no configuration."""
