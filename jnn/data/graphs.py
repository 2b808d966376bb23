"""Several graphs as one."""

import numpy as np

from jnn.layers.graphs import require_graph
from jnn.numbers import whole
from jnn.types import Graph


def batch_graphs(graphs, *, nodes: int | None = None, edges: int | None = None) -> Graph:
    """Graphs -> one Graph of numpy arrays, without edges between them; `sizes` says where they part.

    nodes, edges: the numbers to which padding fills up, so that every batch has the same shapes and is compiled once;
        None for as many as there are. The padding is nodes of zeros and edges from -1 to -1, and counts nowhere.
    Raises ValueError for no graphs, too many nodes or edges, features that differ in shape or dtype, an index out of range.
    """
    graphs = list(graphs)
    if not graphs:
        raise ValueError("batch_graphs: expected at least one graph, got none")
    for i, graph in enumerate(graphs):
        require_graph(f"batch_graphs: graph {i}", graph)
        if graph.sizes is not None:
            raise ValueError(f"batch_graphs: graph {i} is a batch of {graph.sizes.shape[0]} graphs already")
        first = graphs[0].nodes
        if graph.nodes.shape[1:] != first.shape[1:] or graph.nodes.dtype != first.dtype:
            raise ValueError(
                f"batch_graphs: the nodes of graph 0 are {first.dtype} {first.shape}, "
                f"but those of graph {i} are {graph.nodes.dtype} {graph.nodes.shape}"
            )
    sizes = np.array([graph.nodes.shape[0] for graph in graphs], np.int32)
    starts = np.cumsum(sizes) - sizes

    def ends(name):
        parts = [np.asarray(getattr(graph, name)).astype(np.int32) for graph in graphs]
        index = np.concatenate([np.where(part < 0, -1, part + start) for part, start in zip(parts, starts, strict=True)])
        return _padded("edges", index.astype(np.int32), edges, -1)

    features = np.concatenate([np.asarray(graph.nodes) for graph in graphs])
    return Graph(_padded("nodes", features, nodes, 0), ends("senders"), ends("receivers"), sizes)


def _padded(name, array, length, value):
    if length is None:
        return array
    missing = whole("batch_graphs", name, length, 0) - array.shape[0]
    if missing < 0:
        raise ValueError(f"batch_graphs: the graphs have {array.shape[0]} {name}, more than {name}={length}")
    return np.concatenate([array, np.full((missing, *array.shape[1:]), value, array.dtype)])
