"""The versions of the library that reads and writes HDF5, for those who compare machines."""

import h5py

H5PY: str = h5py.__version__
HDF5: str = h5py.version.hdf5_version
