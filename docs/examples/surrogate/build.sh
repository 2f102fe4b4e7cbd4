#!/bin/sh
# From the expensive function to the simulation that calls its surrogate. MPIFORT, PYTHON: other programs than these.
set -eu
"${PYTHON:-python}" make_data.py
"${PYTHON:-python}" -m ddp_mlp.train --data rate.h5 --run_dir run --hidden 32,32 --activation tanh --epochs 40 --quiet
"${PYTHON:-python}" -m ddp_mlp.export run rate.f90
"${MPIFORT:-mpifort}" -O3 -o flame rate.f90 flame.f90
