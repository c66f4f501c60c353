"""A training step of a transformer, beside torch's own layers on one padded tensor.

The same weights, the same batch: dwiml's layers, which pad streamlines of similar length together for attention only,
and ``torch.nn.TransformerEncoder`` on all streamlines padded to the longest, with a mask.
"""

from __future__ import annotations

from typing import Any

import torch
from learn2track import make_batch
from measuring import Figure, compare
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dwiml import TensorSequence, TransformerSrcOnlyModel
from dwiml.models.allocator import keep_freed_memory
from dwiml.models.transformers.positions import sinusoidal


class PaddedTransformer(nn.Module):
    """The layers of a :class:`dwiml.TransformerSrcOnlyModel`, as torch's, on padded streamlines."""

    def __init__(self, model: TransformerSrcOnlyModel) -> None:
        super().__init__()
        self.model = model
        layer = nn.TransformerEncoderLayer(
            model.d_model,
            model.nb_heads,
            model.ffnn_hidden_size or 4 * model.d_model,
            dropout=model.dropout,
            norm_first=model.norm_first,
            batch_first=True,
        )
        nb_layers, norm = len(model.encoder.layers), nn.LayerNorm(model.d_model)
        self.encoder = nn.TransformerEncoder(layer, nb_layers, norm, enable_nested_tensor=False)
        self.encoder.load_state_dict(model.encoder.state_dict())

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        """Embed, pad, run torch's layers, and join the rows again."""
        lines = inputs.mapped(self.model.embed_inputs(inputs)).split()
        padded = pad_sequence(lines, batch_first=True)
        places = torch.arange(padded.shape[1], device=padded.device)
        padded = padded + sinusoidal(places, self.model.d_model).to(padded.dtype)
        causal = nn.Transformer.generate_square_subsequent_mask(len(places), device=padded.device)
        hidden = self.encoder(padded, mask=causal, is_causal=True)
        rows = torch.cat([row[: len(line)] for row, line in zip(hidden, lines, strict=True)])
        directions: Tensor = self.model.direction_getter(rows)
        return directions


def measure_transformer(name: str, *, quick: bool, device: torch.device) -> Figure:
    """Time a whole step on 2 threads of the CPU, or on a GPU; checks that both ways compute the same losses."""
    torch.set_num_threads(2)
    if device.type == "cpu":
        keep_freed_memory()
    nb_streamlines, size, nb_layers, nb_features = (20, 16, 1, 8) if quick else (200, 256, 4, 28)
    inputs, targets = (part.to(device) for part in make_batch(nb_streamlines, nb_features))
    streamlines = targets.trimmed_last()
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "nb_features": nb_features,
        "input_embedded_size": size,
        "nb_layers_encoder": nb_layers,
        "dropout": 0.0,
    }
    model = TransformerSrcOnlyModel(**options).to(device)
    padded = PaddedTransformer(TransformerSrcOnlyModel(**options)).to(device)
    padded.model.load_state_dict(model.state_dict())
    padded.encoder.load_state_dict(model.encoder.state_dict())

    def step(network: nn.Module) -> float:
        optimizer = optimizers[network]
        optimizer.zero_grad()
        loss, _n = model.compute_loss(network(inputs, streamlines), targets)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    optimizers: dict[nn.Module, torch.optim.Adam] = {
        network: torch.optim.Adam(network.parameters()) for network in (model, padded)
    }
    if abs(step(model) - step(padded)) > 1e-3:
        raise RuntimeError("The padded model computes something else than dwiml.")
    seconds, slow_seconds, peak = compare(
        lambda: step(model), lambda: step(padded), repeats=5, baseline_repeats=5, device=device
    )
    nb_points = inputs.total_points
    baseline = "torch.nn.TransformerEncoder on one padded tensor"
    return Figure(name, nb_points / seconds, "points/s", nb_points / slow_seconds, baseline, peak)
