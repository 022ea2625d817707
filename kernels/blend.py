"""Show a picture through masks."""

import numpy as np


def blend(picture: np.ndarray, baseline: np.ndarray, masks: np.ndarray, channels_last: bool, out: np.ndarray) -> None:
    """Write picture * mask + baseline * (1 - mask) into `out`, one row for each mask.

    picture, baseline: (C, H, W), or (H, W, C) if `channels_last`, float32
    masks: (n, H, W) in [0, 1]; out: (n, ...) float32, each row in the picture's shape
    """
    shaped = masks[..., None] if channels_last else masks[:, None]
    if not baseline.any():
        np.multiply(picture, shaped, out=out)
        return
    np.multiply(picture - baseline, shaped, out=out)
    out += baseline
