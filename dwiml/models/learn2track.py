"""Learn2Track: a recurrent network along streamlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dwiml.arguments import check_dropout, check_options
from dwiml.models.inputs import ModelWithNeighborhood, ModelWithOneInput, ModelWithPreviousDirections
from dwiml.models.recurrent.stacked import HiddenStates, StackedRNN, TimeMajor
from dwiml.models.with_direction_getter import ModelWithDirectionGetter
from dwiml.ops.sequences import TensorSequence

# Arguments of the recurrent layers that are parameters of the model itself.
_OWN = ("input_size", "rnn_key", "layer_sizes", "use_skip_connection", "use_layer_normalization", "dropout")


class Learn2TrackModel(ModelWithPreviousDirections, ModelWithDirectionGetter, ModelWithNeighborhood, ModelWithOneInput):
    """The recurrent model of Poulin et al., "Learn to Track: Deep Learning for Tractography", MICCAI 2017.

    doi:10.1007/978-3-319-66182-7_62. At each point, the embedded input and the embedded previous directions are
    concatenated and go through :class:`dwiml.models.recurrent.stacked.StackedRNN`, then through the direction getter.

    Sequences are never padded; on the CPU, dwiml's own backward pass is faster than that of torch (see
    :mod:`dwiml.models.recurrent.cells`). ``scripts/benchmarks/run.py`` measures it.

    Parameters
    ----------
    rnn_key
        Type of the recurrent layers: 'gru' or 'lstm'.
    rnn_layer_sizes
        Number of units of each recurrent layer.
    use_skip_connection
        Give the input of the first layer to the other layers too, and the output of all layers to the direction getter.
    use_layer_normalization
        Normalize the output of each layer but the last.
    dropout
        Probability that a value is set to zero between two recurrent layers, in training.
    rnn_args
        Other options of the recurrent layers: ``activation``, ``normalize_last`` and ``skip_to_output`` of
        ``StackedRNN``.
    embedding_dropout
        Probability that a value of the embeddings of the input and of the previous directions is set to zero, in
        training; None: 0.
    **kwargs
        Parameters of the base classes: ``nb_features``, ``nb_previous_dirs``, ``dg_key``, ``neighborhood_type``, ...

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    def __init__(
        self,
        *,
        rnn_key: str = "gru",
        rnn_layer_sizes: Sequence[int] = (256, 256),
        use_skip_connection: bool = True,
        use_layer_normalization: bool = True,
        dropout: float = 0.0,
        rnn_args: Mapping[str, Any] | None = None,
        embedding_dropout: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.embedding_dropout: nn.Dropout | None = None
        if embedding_dropout is not None:
            self.embedding_dropout = nn.Dropout(check_dropout("embedding_dropout", embedding_dropout))
        self.rnn = StackedRNN(
            self.embedded_input_size + self.embedded_prev_dirs_size,
            rnn_key=rnn_key,
            layer_sizes=rnn_layer_sizes,
            use_skip_connection=use_skip_connection,
            use_layer_normalization=use_layer_normalization,
            dropout=dropout,
            **check_options("rnn_args", rnn_args, StackedRNN, key=rnn_key, own=_OWN, example={"activation": "relu"}),
        )
        self.instantiate_direction_getter(self.rnn.output_size)

    def forward(
        self,
        inputs: TensorSequence,
        streamlines: TensorSequence,
        hidden_states: HiddenStates | None = None,
        return_hidden: bool = False,
    ) -> Tensor | tuple[Tensor, HiddenStates]:
        """Compute the outputs of the direction getter for each row of ``inputs``.

        To continue step by step, give the hidden states that the previous call returned, the inputs of the new points
        only, and streamlines that end at these points: whole, or their last ``nb_previous_dirs`` + 1 points. The
        outputs are the same as those of one call on the whole streamlines. To continue with some of the streamlines
        only, select their rows: ``[tuple(part[kept] for part in layer) for layer in hidden_states]``.

        Parameters
        ----------
        inputs
            Shape (N, input_size).
        streamlines
            Points (M, 3), voxel space, corner origin: as many as inputs, or at least as many with ``hidden_states``.
        hidden_states
            For each layer (h,) of a GRU or (h, c) of an LSTM, each (S, layer size). None: streamlines begin here.
        return_hidden
            Whether to return the hidden states as well.

        Returns
        -------
        Tensor or tuple
            The outputs, (N, K), one streamline after the other; with ``return_hidden`` also the hidden states.

        Raises
        ------
        ValueError
            If inputs and streamlines do not have the same lengths.
        """
        features = torch.cat([self.embed_inputs(inputs), self._embedded_dirs(inputs, streamlines, hidden_states)], 1)
        if self.embedding_dropout is not None:
            features = self.embedding_dropout(features)
        order = TimeMajor(inputs.lengths, features.device)
        rows, new_states = self.rnn(order.pack(features), order, hidden_states)
        # Reordered last: few columns instead of all units.
        outputs = order.unpack(self.direction_getter(rows))
        return (outputs, new_states) if return_hidden else outputs

    def track_step(
        self, inputs: TensorSequence, streamlines: TensorSequence, memory: HiddenStates | None
    ) -> tuple[Tensor, HiddenStates]:
        """Compute the outputs at the last point of each streamline; the memory is the hidden states."""
        outputs, states = self.forward(inputs, streamlines, memory, return_hidden=True)
        return inputs.mapped(outputs).last_points(), states

    def select_memory(self, memory: HiddenStates, kept: Tensor) -> HiddenStates:
        """Return the hidden states of the streamlines ``kept``, (K,), int64."""
        return [tuple(part[kept] for part in layer) for layer in memory]

    def _embedded_dirs(
        self, inputs: TensorSequence, streamlines: TensorSequence, hidden_states: HiddenStates | None
    ) -> Tensor:
        """Return the embedded previous directions at the points of ``inputs``."""
        same = torch.equal(inputs.lengths, streamlines.lengths)
        if not same and (hidden_states is None or not _ends_with(streamlines.lengths, inputs.lengths)):
            raise ValueError(
                f"There must be one input per point: got {inputs.total_points} inputs in {len(inputs)} sequences for "
                f"{streamlines.total_points} points in {len(streamlines)} streamlines."
            )
        directions = self.previous_dirs(streamlines)
        if not same:
            # The inputs are those of the last points.
            directions = streamlines.mapped(directions).tail(inputs.lengths).data
        return self.embed_previous_dirs(directions)


def _ends_with(lengths: Tensor, of_ends: Tensor) -> bool:
    return len(lengths) == len(of_ends) and bool((lengths >= of_ends).all())
