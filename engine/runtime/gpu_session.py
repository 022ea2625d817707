"""A graph on ONNX Runtime's CUDA or TensorRT provider: one session for whole pictures, another for masked ones."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.errors import BundleError, ProviderError
from engine.protocol import GraphSignature, Notice, Renderer
from engine.runtime.gpu_device import as_provider_error, close_with, shared_device
from engine.runtime.gpu_opening import open_gpu_session, warn_always
from engine.runtime.gpu_options import WHOLE, WHOLE_PROFILE, Profile, Setting, largest_that_fits, masked_profile
from engine.runtime.gpu_stage import GpuStage, MaskedNetwork
from engine.runtime.session import check_nodes, run_finite
from kernels.device import DeviceError


class GpuSession:
    """Runs one graph with one input and one output on the device; threads may share it.

    provider: cuda, tensorrt; precision: of the graph; digest: sha256 of all it consists of
    The rest, and what is raised, as `Session`.
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
        whole = self._opened(self._setting(WHOLE_PROFILE, graphs=False))
        check_nodes(path, "input", whole.get_inputs(), {signature.input: signature.input_shape})
        check_nodes(path, "output", whole.get_outputs(), {signature.output: signature.output_shape})
        self._whole = [whole]  # for whole pictures
        close_with(self, self._device, self._whole.clear)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> (B, ...) float32; raises BundleError where that is not finite."""

        def do() -> list[np.ndarray]:
            parts = (batch[start : start + WHOLE] for start in range(0, len(batch), WHOLE))
            return [
                run_finite(self._whole[0], self.path, [self.signature.output], {self.signature.input: part})[0]
                for part in parts
            ]

        with as_provider_error(f"cannot run {self.path}"):
            return np.concatenate(self._device.call(do))

    def fit(self, notice: Notice) -> int:
        """Make ready for masked pictures: the largest batch that the device's memory holds, warmed up; gives that batch.

        Runs are captured as CUDA graphs on provider cuda alone: TensorRT's keeps one, whichever memory a run is bound to.
        notice: told what is going on, in lines. Raises ProviderError, BundleError.
        """
        name = f"{self._provider} on {self._device.name}"

        def attempt(batch: int, graphs: bool) -> MaskedNetwork:
            notice(f"{name}: preparing {self.path.name} for batches of {batch}")
            setting = self._setting(masked_profile(batch), graphs)
            return self._device.call(lambda: MaskedNetwork(self._device, self._opened(setting, notice), setting, self.path))

        def fitted(graphs: bool) -> MaskedNetwork:
            def too_large(batch: int) -> None:
                notice(f"{name}: out of memory at batches of {batch}")

            return largest_that_fits(lambda batch: attempt(batch, graphs), stepped=too_large)

        with as_provider_error(f"cannot run {self.path}"):
            masked, refused = None, ""
            if self._provider == "cuda":
                try:
                    masked = fitted(graphs=True)
                except (BundleError, ProviderError, DeviceError) as error:
                    refused = str(error)
            if refused:  # outside the handler: its traceback keeps memory
                notice(f"{name}: no CUDA graphs, {refused}")
            self._masked = masked or fitted(graphs=False)
            close_with(self, self._device, self._masked.close)
        return self._masked.batch

    @property
    def batch(self) -> int | None:
        """Of masked pictures; None before `fit`."""
        return None if self._masked is None else self._masked.batch

    def stage(
        self, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int
    ) -> GpuStage:
        """See `engine.protocol.Runner`. batch: ignored, `fit` found the GPU's own"""
        if self._masked is None:
            raise ProviderError(f"{self.path} was not made ready for masked pictures: call fit first")
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

    def _opened(self, setting: Setting, notice: Notice = warn_always) -> ort.InferenceSession:
        device = self._device
        return device.call(lambda: open_gpu_session(self.path, setting, self._digest, device.capability, notice))
