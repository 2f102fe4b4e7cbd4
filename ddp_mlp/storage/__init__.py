"""HDF5 files: data sets and checkpoints; nothing else reads or writes HDF5."""
