# pyright: reportMissingImports=false
"""torch: eager on a CPU, torch.compile on a GPU."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from experiments.benchmarks.workloads import LEARNING_RATE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLACE = {"device": DEVICE, "memory_format": torch.channels_last}  # the latter for images and their filters

if DEVICE == "cuda":
    torch.set_float32_matmul_precision("high")  # TF32, JAX's default there
    torch.backends.cudnn.benchmark = True


def _put(layer, **arrays):
    """The layer with these arrays as its parameters."""
    with torch.no_grad():
        for name, array in arrays.items():
            getattr(layer, name).copy_(torch.tensor(np.array(array)))
    return layer


def _dense(weights, path):
    w, b = weights[f"{path}/w"], weights[f"{path}/b"]
    return _put(nn.Linear(*w.shape), weight=w.T, bias=b)


def _conv(weights, path, stride=1):
    w = weights[f"{path}/w"].transpose(3, 2, 0, 1)
    b = {"bias": weights[f"{path}/b"]} if f"{path}/b" in weights else {}
    size = w.shape[-1]
    return _put(nn.Conv2d(w.shape[1], w.shape[0], size, stride, padding=size // 2, bias=bool(b)), weight=w, **b)


def _norm(weights, path, layer: type[nn.Module] = nn.LayerNorm):
    """LayerNorm or BatchNorm2d, whose defaults are jnn's: eps 1e-5, a tenth of the running statistics replaced."""
    scale = weights[f"{path}/scale"]
    return _put(layer(len(scale)), weight=scale, bias=weights[f"{path}/bias"])


def _embed(weights, path):
    table = weights[f"{path}/table"]
    return _put(nn.Embedding(*table.shape), weight=table)


def _mlp(weights):
    return nn.Sequential(_dense(weights, "dense_0"), nn.ReLU(), _dense(weights, "dense_1"), nn.ReLU(), _dense(weights, "head"))


def _cnn(weights):
    w = weights["dense_7/w"]  # its rows are height, width, channel
    w = w.reshape(7, 7, 64, -1).transpose(2, 0, 1, 3).reshape(w.shape)
    return nn.Sequential(
        *(_conv(weights, "conv_0"), nn.ReLU(), nn.MaxPool2d(2)),
        *(_conv(weights, "conv_3"), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(_dense(weights | {"dense_7/w": w}, "dense_7"), nn.ReLU(), _dense(weights, "dense_9")),
    )


class LanguageModel(nn.Module):
    def __init__(self, weights, cell):
        super().__init__()
        wx, wh, b = (weights[f"cell_0/{name}"] for name in ("wx", "wh", "b"))
        bh = weights.get("cell_0/bh", np.zeros_like(b))
        self.embed, self.head = _embed(weights, "embed"), _dense(weights, "head")
        self.cell = _put(cell(len(wx), len(wh)), weight_ih_l0=wx.T, weight_hh_l0=wh.T, bias_ih_l0=b, bias_hh_l0=bh)

    def forward(self, tokens):
        ys, _ = self.cell(self.embed(tokens.T))  # time first, torch's default and a little faster
        return self.head(ys).transpose(0, 1)


class Attention(nn.Module):
    def __init__(self, weights, heads):
        super().__init__()
        self.q, self.k, self.v, self.out = (_dense(weights, name) for name in ("q", "k", "v", "out"))
        self.heads = heads

    def forward(self, x):
        # three products: on a CPU a little faster than one that is split
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, weights):
        super().__init__()
        attention = Attention(_under("attend/layer/attention/", weights), heads=4)
        self.attend = nn.Sequential(_norm(weights, "attend/layer/norm"), attention)
        up, down = _dense(weights, "think/layer/up"), _dense(weights, "think/layer/down")
        self.think = nn.Sequential(_norm(weights, "think/layer/norm"), up, nn.GELU("tanh"), down)

    def forward(self, x):
        x = x + self.attend(x)
        return x + self.think(x)


class GPT(nn.Module):
    def __init__(self, weights):
        super().__init__()
        stacked = _under("repeat/", weights)
        blocks = [Block({path: w[i] for path, w in stacked.items()}) for i in range(len(stacked["think/layer/up/b"]))]
        self.embed, self.positions = _embed(weights, "embed"), _embed(weights, "positions")
        self.body = nn.Sequential(*blocks, _norm(weights, "norm"))

    def forward(self, tokens):
        x = self.embed(tokens) + self.positions.weight[: tokens.shape[1]]
        return functional.linear(self.body(x), self.embed.weight)


def _under(prefix, weights):
    return {path.removeprefix(prefix): w for path, w in weights.items() if path.startswith(prefix)}


class ResidualBlock(nn.Module):
    def __init__(self, weights, path, stride):
        super().__init__()
        self.layer = nn.Sequential(
            *_conv_norm(weights, f"{path}/layer/conv_1", f"{path}/layer/norm_1", stride),
            nn.ReLU(inplace=True),
            *_conv_norm(weights, f"{path}/layer/conv_2", f"{path}/layer/norm_2"),
        )
        shortcut = [] if stride == 1 else _conv_norm(weights, f"{path}/shortcut/conv", f"{path}/shortcut/norm", stride)
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x):
        return functional.relu(self.layer(x) + self.shortcut(x), inplace=True)


def _conv_norm(weights, conv, norm, stride=1):
    return _conv(weights, conv, stride), _norm(weights, norm, nn.BatchNorm2d)


def _resnet(weights):
    blocks = [
        ResidualBlock(weights, f"stage_{stage}/block_{i}/residual", 2 if stage > 1 and i == 0 else 1)
        for stage in (1, 2, 3, 4)
        for i in (0, 1)
    ]
    stem = *_conv_norm(weights, "stem/conv", "stem/norm"), nn.ReLU(inplace=True)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), _dense(weights, "head"))


def _build(network):
    def build(weights):
        model = network(weights).to(**PLACE)
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
        forward = torch.compile(model) if DEVICE == "cuda" else model

        def step(state, batch):
            inputs, targets = batch
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(forward(inputs).flatten(0, -2), targets.flatten())
            loss.backward()
            optimizer.step()
            return state, loss.detach()

        return (model, optimizer), step

    return build


def prepare(batch):
    inputs, targets = map(torch.tensor, batch)
    if inputs.ndim == 4:
        inputs = inputs.permute(0, 3, 1, 2).to(**PLACE)
    return inputs.to(DEVICE), targets.to(DEVICE, torch.int64)


NETWORKS = {
    "mlp": _build(_mlp),
    "cnn": _build(_cnn),
    "lstm": _build(lambda weights: LanguageModel(weights, nn.LSTM)),
    "gru": _build(lambda weights: LanguageModel(weights, nn.GRU)),
    "gpt": _build(GPT),
    "resnet": _build(_resnet),
}
wait = float
COMPILES = DEVICE == "cuda"
