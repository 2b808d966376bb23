"""Parameters in two parts, each to be trained in a way of its own."""

import jax

from jnn import tree


class Parts:
    """A tree of parameters in two: what `where` takes, and the rest. None stands where an array is left out: for jax, no
    array at all."""

    def __init__(self, params, where: tree.Where):
        self.taken, self.structure = jax.tree.flatten(tree.mask(params, where))

    def inside(self, params):
        return self._part(params, self.taken)

    def outside(self, params):
        return self._part(params, [not is_taken for is_taken in self.taken])

    def whole(self, inside, outside):
        """The arrays of both in one tree. Either may have arrays where the other has them; they are left out."""
        inside, outside = (self.structure.flatten_up_to(part) for part in (inside, outside))
        return self.structure.unflatten([i if t else o for t, i, o in zip(self.taken, inside, outside, strict=True)])

    def _part(self, params, taken):
        leaves = self.structure.flatten_up_to(params)
        return self.structure.unflatten([leaf if t else None for t, leaf in zip(taken, leaves, strict=True)])
