"""One graph that takes two pictures and gives a score: run over one of the two while the other stays as it is."""

import copy
from pathlib import Path

import numpy as np

from engine.protocol import GraphSignature, Renderer
from engine.runtime.forks import Threaded
from engine.runtime.host_stage import HostStage
from engine.runtime.session import check_nodes, open_session, run_finite


class PairSession:
    """A two-input graph with one of its pictures held fixed, used like `engine.runtime.session.Session`.

    signature: of the first input and the score, (1,); second_input: the name of the other input, of the same shape
    fixed: the picture (C, H, W), or (H, W, C), float32 that the second input gets until `facing` says otherwise
    Raises BundleError if the graph is not what the manifest says, ProviderError if the provider is missing.
    """

    def __init__(
        self,
        path: Path,
        provider: str,
        threads: int | None,
        signature: GraphSignature,
        second_input: str,
        fixed: np.ndarray,
    ) -> None:
        self.path, self.signature = path, signature
        session = open_session(path, provider, threads)
        self._session = Threaded(session)
        self._moving, self._still, self._fixed = signature.input, second_input, fixed
        inputs: dict[str, tuple[int | None, ...]] = dict.fromkeys((self._moving, self._still), signature.input_shape)
        check_nodes(path, "input", session.get_inputs(), inputs)
        check_nodes(path, "output", session.get_outputs(), {signature.output: signature.output_shape})

    def facing(self, fixed: np.ndarray, *, as_first: bool = False) -> "PairSession":
        """The same graph with another picture held fixed: on the second input, or with `as_first` on the first."""
        other = copy.copy(self)
        other._fixed = fixed
        if as_first:
            other._moving, other._still = self._still, self._moving
        return other

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> scores (B, 1) float32; raises BundleError if one is not finite."""
        feeds = {self._moving: batch, self._still: np.broadcast_to(self._fixed, batch.shape)}
        (scores,) = run_finite(self._session.get(), self.path, [self.signature.output], feeds)
        return scores

    def stage(
        self, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int
    ) -> HostStage:
        """See `engine.protocol.Runner`."""
        return HostStage(self, renderer, image, baseline, channels_last, batch)
