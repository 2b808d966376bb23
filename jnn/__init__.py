"""jnn: pure-functional neural networks on JAX, and an honest, quick comparison of optimizers."""

from jnn import data, initializers, losses, metrics, optim, schedules, tree
from jnn.combinators import serial
from jnn.comparison import compare, log_uniform, uniform
from jnn.gradients import check_gradients
from jnn.layers import dense, dropout, flatten
from jnn.objectives import supervised
from jnn.populations import sweep
from jnn.trainings import evaluate, fit, training
from jnn.types import Aux, Fitted, Layer, Objective, Optimizer, Training, TrainState

__version__ = "0.1.0"
