"""Where version 0.1 had its standardization: estimators that it pickled look for the class here."""

from ddp_mlp.data.batches import Standardization as Standardization
