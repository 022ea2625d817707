"""Showing a picture through masks."""

import numpy as np


def blend(image: np.ndarray, baseline: np.ndarray, masks: np.ndarray, channels_last: bool, out: np.ndarray) -> None:
    """out = image * mask + baseline * (1 - mask), for every mask.

    image, baseline: (C, H, W), or (H, W, C) if `channels_last`, float32; masks (n, H, W) in [0, 1]; out (n, ...) float32
    """
    shaped = masks[..., None] if channels_last else masks[:, None]
    if not baseline.any():
        np.multiply(image, shaped, out=out)
        return
    np.multiply(image - baseline, shaped, out=out)
    out += baseline
