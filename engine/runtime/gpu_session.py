"""A graph on ONNX Runtime's CUDA or TensorRT provider: one session for whole pictures, another for masked ones."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.errors import BundleError, ProviderError
from engine.protocol import GraphSignature, Notice, Renderer
from engine.runtime.gpu_device import as_provider_error, close_with, shared_device
from engine.runtime.gpu_opening import open_gpu_session, warn_always
from engine.runtime.gpu_options import WHOLE_BATCH, WHOLE_PROFILE, Profile, Setting, largest_that_fits, masked_profile
from engine.runtime.gpu_stage import GpuStage, MaskedNetwork
from engine.runtime.session import check_nodes, run_finite
from kernels.device import DeviceError


class GpuSession:
    """Run one graph with one input and one output on the GPU; threads may share it.

    provider: cuda or tensorrt; precision: the graph's; digest: sha256 of the graph and its external data
    Raises BundleError if the graph does not load or its input or output differs from `signature`, ProviderError if the GPU
    or the provider cannot be used.
    """

    def __init__(
        self,
        path: Path,
        provider: str,
        precision: str,
        digest: str,
        signature: GraphSignature,
    ) -> None:
        self.path, self.signature = path, signature
        self._provider, self._precision, self._digest = provider, precision, digest
        self._device = shared_device()
        self._masked: MaskedNetwork | None = None
        whole = self._open(self._setting(WHOLE_PROFILE, graphs=False))
        check_nodes(path, "input", whole.get_inputs(), {signature.input: signature.input_shape})
        check_nodes(path, "output", whole.get_outputs(), {signature.output: signature.output_shape})
        self._whole = [whole]  # in a list, which `close_with` can empty without a reference to this object
        close_with(self, self._device, self._whole.clear)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> (B, ...) float32. Raises BundleError if the result is not finite."""

        def run_parts() -> list[np.ndarray]:
            parts = (batch[start : start + WHOLE_BATCH] for start in range(0, len(batch), WHOLE_BATCH))
            return [
                run_finite(self._whole[0], self.path, [self.signature.output], {self.signature.input: part})[0]
                for part in parts
            ]

        with as_provider_error(f"cannot run {self.path}"):
            return np.concatenate(self._device.call(run_parts))

    def fit(self, notice: Notice) -> int:
        """Prepare and warm up runs over masked pictures, with the largest batch that fits the device's memory; return it.

        Only provider cuda captures runs as CUDA graphs: TensorRT's provider keeps one graph for all buffers, and we use two.
        notice: called with one line a step
        Raises ProviderError or BundleError if no batch can be run.
        """
        name = f"{self._provider} on {self._device.name}"

        def attempt(batch: int, graphs: bool) -> MaskedNetwork:
            notice(f"{name}: preparing {self.path.name} for batches of {batch}")
            setting = self._setting(masked_profile(batch), graphs)
            return self._device.call(lambda: MaskedNetwork(self._device, self._open(setting, notice), setting, self.path))

        def attempt_largest(graphs: bool) -> MaskedNetwork:
            def on_too_large(batch: int) -> None:
                notice(f"{name}: out of memory at batches of {batch}")

            return largest_that_fits(lambda batch: attempt(batch, graphs), on_too_large=on_too_large)

        with as_provider_error(f"cannot run {self.path}"):
            masked, refused = None, ""
            if self._provider == "cuda":
                try:
                    masked = attempt_largest(graphs=True)
                except (BundleError, ProviderError, DeviceError) as error:
                    refused = str(error)
            if refused:  # after the handler: inside it, the traceback would keep the attempt's memory alive
                notice(f"{name}: no CUDA graphs: {refused}")
            self._masked = masked or attempt_largest(graphs=False)
            close_with(self, self._device, self._masked.close)
        return self._masked.batch

    @property
    def batch(self) -> int | None:
        """Batch size of masked pictures; None before `fit`."""
        return None if self._masked is None else self._masked.batch

    def stage(
        self, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int
    ) -> GpuStage:
        """See `engine.protocol.Runner`. `batch` is ignored: `fit` chose the GPU's."""
        if self._masked is None:
            raise ProviderError(f"{self.path} is not prepared for masked pictures: call fit first")
        return GpuStage(self._device, self._masked, renderer, image, baseline, channels_last)

    def _setting(self, profile: Profile, graphs: bool) -> Setting:
        return Setting(
            self._provider,
            self._precision,
            self.signature.input,
            self.signature.input_shape,
            profile,
            ordinal=self._device.ordinal,
            stream=self._device.stream,
            graphs=graphs,
        )

    def _open(self, setting: Setting, notice: Notice = warn_always) -> ort.InferenceSession:
        device = self._device
        return device.call(lambda: open_gpu_session(self.path, setting, self._digest, device.capability, notice))
