"""Optimizers: factories of (init, update) pairs with optax's signature, so each goes wherever an optax one goes."""

from jnn.optim.first_order import adam, momentum, sgd
from jnn.optim.freezing import freeze
from jnn.optim.updates import apply_updates

__all__ = ["adam", "apply_updates", "freeze", "momentum", "sgd"]
