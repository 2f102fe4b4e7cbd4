"""Sample the function that the simulation would have to compute in every cell and step: a reaction's rate.

Writes rate.h5: temperature (K) and concentration (mol/m³) → rate (mol/m³/s), 20,000 rows to train, 2,000 to test.
"""

import h5py
import numpy as np


def rate(temperature: np.ndarray, concentration: np.ndarray) -> np.ndarray:
    """Return the rate, which stands for something expensive."""
    return 4e3 * concentration**2 * np.exp(-4000.0 / temperature) / (1 + concentration)


random = np.random.default_rng(1)
with h5py.File("rate.h5", "w") as file:
    for split, rows in (("train", 20_000), ("test", 2_000)):
        temperature, concentration = random.uniform(300, 1500, rows), random.uniform(0, 2, rows)
        file[f"{split}/X"] = np.stack([temperature, concentration], axis=1)
        file[f"{split}/y"] = rate(temperature, concentration)
    file.attrs["features"] = ["temperature", "concentration"]
    file.attrs["targets"] = ["rate"]
