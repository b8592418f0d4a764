"""MONAI's diffusion U-Net without all the rest of MONAI, which takes seconds to import.

`import monai` imports everything that MONAI has, and Transformers and SciPy's signal processing
with it. Here its packages are modules that import nothing; what the network needs of them by name
comes from the submodules that hold it. As soon as anything else of MONAI is asked for, these
modules go, and MONAI is imported as a whole, as if nothing had been before.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

ROOT = "monai"
# Packages, and the submodules that hold what the network needs of them.
PACKAGES: dict[str, dict[str, str]] = {
    "monai": {},
    "monai.apps": {},
    "monai.config": {
        "DtypeLike": "type_definitions",
        "NdarrayOrTensor": "type_definitions",
        "NdarrayTensor": "type_definitions",
        "PathLike": "type_definitions",
    },
    "monai.networks": {},
    "monai.networks.nets": {},
    "monai.networks.layers": {"get_act_layer": "utils"},
    "monai.networks.blocks": {
        "ADN": "acti_norm",
        "Convolution": "convolutions",
        "CrossAttentionBlock": "crossattention",
        "MLPBlock": "mlp",
        "SABlock": "selfattention",
        "SpatialAttentionBlock": "spatialattention",
        "Upsample": "upsample",
    },
    "monai.utils": {
        "ComponentStore": "component_store",
        "InterpolateMode": "enums",
        "UpsampleMode": "enums",
        "ensure_tuple": "misc",
        "ensure_tuple_rep": "misc",
        "has_option": "misc",
        "look_up_option": "module",
        "min_version": "module",
        "optional_import": "module",
    },
}
MODULES = (*PACKAGES, "monai._C")  # whose parts the network needs, or asks whether they are there
_changing = RLock()


class _Package(ModuleType):
    """A package of MONAI whose `__init__` has not run."""

    def __getattr__(self, name: str) -> Any:
        home = PACKAGES[self.__name__].get(name)
        if home is not None:
            return getattr(import_module(f"{self.__name__}.{home}"), name)
        if name.startswith("__"):
            raise AttributeError(name)
        _import_whole()
        return getattr(import_module(self.__name__), name)


class _Rest(MetaPathFinder, Loader):
    """Imports MONAI as a whole when a part of it is asked for that the network does not need."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent = fullname.rpartition(".")[0]
        if fullname.partition(".")[0] != ROOT or parent in MODULES[1:] or fullname in MODULES:
            return None
        _import_whole()
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return import_module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it was imported."""


_rest = _Rest()


def diffusion_unet() -> Any:
    """Return MONAI's class of diffusion U-Nets."""
    with _changing:
        if ROOT not in sys.modules:
            for name in PACKAGES:
                _add(name)
            sys.meta_path.insert(0, _rest)
        return import_module("monai.networks.nets.diffusion_model_unet").DiffusionModelUNet


def _add(name: str) -> None:
    """Add a package to the modules that are imported, and to its parent."""
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"no module named {name!r}", name=name)
    package = module_from_spec(spec)
    package.__class__ = _Package
    if name == ROOT:  # its modules ask for it
        vars(package)["__version__"] = version(name)

    sys.modules[name] = package
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, package)


def _import_whole() -> None:
    """Import MONAI as a whole in place of its parts."""
    with _changing:
        if isinstance(sys.modules.get(ROOT), _Package):
            sys.meta_path.remove(_rest)
            for name in [name for name in sys.modules if name.partition(".")[0] == ROOT]:
                del sys.modules[name]
        import_module(ROOT)
