"""Where version 0.1 had its standardization: estimators that it pickled look for the class here."""

from ddp_mlp.nn.standardization import Standardization as Standardization
