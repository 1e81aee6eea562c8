"""With the core dependencies alone every module of the library and the benchmarks imports."""

import importlib
import importlib.util
import pkgutil
import sys

import benchmarks
import vaesr

EXTRAS = ("tensorflow_datasets", "grain", "tyro", "torch", "PIL", "matplotlib", "skimage", "sklearn", "tqdm")

for package in (vaesr, benchmarks):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # The suites import torch's networks where torch is there.
            if error.name != "torch" or not module.name.startswith("benchmarks.peers.torch_"):
                raise
present = [name for name in EXTRAS if importlib.util.find_spec(name)]
loaded = [name for name in EXTRAS if name in sys.modules]
assert not present, f"the environment is not the core one, it holds {present}"
assert not loaded, f"imported at the top of a core module: {loaded}"
print(f"vaesr {vaesr.__version__} and the benchmarks import with the core dependencies alone")
