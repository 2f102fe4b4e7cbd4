"""Write the files that the pages of the documentation begin with, small and made up, into the folder where it is run.

`python docs/examples/tables.py` gives flowers.csv, houses.csv and new_houses.csv, X.npy and y.npy, images and labels
in IDX, theirs.h5, and prices.h5.
"""

import gzip
import struct

import h5py
import numpy as np

random = np.random.default_rng(0)
ROWS = 300

with open("flowers.csv", "w") as file:
    print("petal_length,petal_width,species", file=file)
    for row in range(ROWS):
        kind = row % 3
        length, width = random.normal((1.5, 4.3, 5.6)[kind], 0.4), random.normal((0.3, 1.3, 2.0)[kind], 0.2)
        print(f"{length:.2f},{width:.2f},{('setosa', 'versicolor', 'virginica')[kind]}", file=file)

for name, rows in (("houses.csv", ROWS), ("new_houses.csv", 20)):
    with open(name, "w") as file:
        print("id,area,rooms,year" + ",price" * (name == "houses.csv"), file=file)
        for row in range(rows):
            area, rooms, year = random.uniform(40, 200), int(random.integers(1, 8)), int(random.integers(1900, 2025))
            price = 1800 * area + 9000 * rooms + 400 * (year - 1900) + random.normal(0, 8000)
            print(f"{row},{area:.1f},{rooms},{year}" + f",{price:.0f}" * (name == "houses.csv"), file=file)

y = np.arange(ROWS) % 2
X = random.standard_normal((ROWS, 64), np.float32) + y[:, None]
np.save("X.npy", X)
np.save("y.npy", y)
with gzip.open("train-images-idx3-ubyte.gz", "wb") as file:
    file.write(struct.pack(">HBBIII", 0, 8, 3, ROWS, 8, 8) + (60 + 40 * X.clip(-1, 3)).astype(np.uint8).tobytes())
with gzip.open("train-labels-idx1-ubyte.gz", "wb") as file:
    file.write(struct.pack(">HBBI", 0, 8, 1, ROWS) + y.astype(np.uint8).tobytes())
with h5py.File("theirs.h5", "w") as file:
    file["images"], file["labels"] = X.reshape(ROWS, 8, 8), y
with h5py.File("prices.h5", "w") as file:
    for split in ("train", "valid", "test"):
        file[f"{split}/X"] = inputs = random.standard_normal((100, 5), np.float32)
        file[f"{split}/y"] = inputs @ np.arange(1.0, 6.0) + 100
