"""A trained network in the files of other programs: C, Fortran, ONNX, safetensors, NPZ."""
