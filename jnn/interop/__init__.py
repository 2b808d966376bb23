"""Models and parameters of other libraries: flax and Equinox modules as Layers, safetensors files, torch's weights.

None of these libraries is needed to import jnn; each is imported where it is used.
"""

from jnn.interop.equinox_modules import equinox
from jnn.interop.files import load, metadata, save
from jnn.interop.flax_modules import linen, nnx
from jnn.interop.state_dicts import Loaded, StateDictError, load_state_dict

__all__ = ["Loaded", "StateDictError", "equinox", "linen", "load", "load_state_dict", "metadata", "nnx", "save"]
