"""Initial parameters: `(key, shape, dtype) -> array`.

`zeros` is such a function; the others are made by a call, `lecun_normal()`. These are jax's own. The last axis of a shape
counts the outputs; fan_in is the product of the others.

    lecun_normal    truncated normal, variance 1/fan_in   LeCun et al. 1998, "Efficient BackProp", section 4.6
    kaiming_normal  truncated normal, variance 2/fan_in   He et al. 2015, "Delving Deep into Rectifiers", eq. 10
"""

from jax.nn.initializers import he_normal as kaiming_normal
from jax.nn.initializers import lecun_normal, zeros

__all__ = ["kaiming_normal", "lecun_normal", "zeros"]
