"""jnn: pure-functional neural networks on JAX, and an honest, quick comparison of optimizers."""

from jnn import (
    activations,
    augmentations,
    checkpoints,
    data,
    initializers,
    interop,
    losses,
    metrics,
    models,
    optim,
    plots,
    regularizers,
    runs,
    schedules,
    sharding,
    tree,
)
from jnn.checkpoints import Checkpoints
from jnn.combinators import branch, parallel, precision, remat, repeat, residual, serial
from jnn.comparison import calibrate, compare, complement_log_uniform, log_uniform, uniform, verdict_map
from jnn.compositions import compose
from jnn.diagnoses import diagnose
from jnn.generation import generate
from jnn.gradients import check_gradients
from jnn.layers import (
    attention,
    avg_pool,
    batch_norm,
    bidirectional,
    conv,
    conv_transpose,
    dense,
    dropout,
    embed,
    flatten,
    global_avg_pool,
    global_max_pool,
    graph_attention,
    graph_conv,
    group_norm,
    gru,
    jordan,
    layer_norm,
    learned_positions,
    lstm,
    max_pool,
    maxout,
    on_nodes,
    pool_nodes,
    prelu,
    rms_norm,
    rnn,
    sinusoidal_positions,
    stateful,
    stochastic_depth,
)
from jnn.objectives import supervised
from jnn.populations import sweep
from jnn.runs import run
from jnn.summaries import summary
from jnn.trainings import evaluate, fit, training
from jnn.types import Aux, Fitted, Graph, Layer, Objective, Optimizer, Training, TrainState

__version__ = "0.1.0"
