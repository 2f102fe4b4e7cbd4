# A Spack recipe: put this file into a repository of yours, at packages/py_ddp_mlp/package.py, and
#   spack dev-build py-ddp-mlp@0.2.0        (in a checkout)
# For Spack's own repository, the class names a released sdist (`pypi = …`) and its hash.
from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyDdpMlp(PythonPackage):
    """Data-parallel training of multi-layer perceptrons over MPI, with the same bits on any number of ranks."""

    license("BSD-3-Clause")

    version("0.2.0")

    variant("report", default=False, description="pictures and the report page")
    variant("sklearn", default=False, description="scikit-learn's interface")

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-hatchling@1.27:", type="build")
    depends_on("py-numpy@2.0:", type=("build", "run"))
    depends_on("py-h5py@3.11:", type=("build", "run"))
    depends_on("py-mpi4py@4.0:", type=("build", "run"))
    depends_on("py-pyyaml@6.0:", type=("build", "run"))
    depends_on("py-threadpoolctl@3.5:", type=("build", "run"))
    depends_on("py-tqdm@4.66:", type=("build", "run"))
    depends_on("py-matplotlib@3.9:", type=("build", "run"), when="+report")
    depends_on("py-scikit-learn@1.6:", type=("build", "run"), when="+sklearn")

    import_modules = ["ddp_mlp", "ddp_mlp.train"]
