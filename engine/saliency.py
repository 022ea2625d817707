"""From scores to maps: where the map is summed."""

import numpy as np

from engine.plans import RisePlan


def rise_maps(plan: RisePlan, scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """`S = sum_i y_i m_i / mean_i(m_i)`, division per pixel (SANE.md, RISE): (R, H, W) float32.

    scores: (N, R) similarity of each masked query to each reference. A pixel that no mask shows has saliency 0.
    """
    renderer = plan.renderer(height, width)
    sums = renderer.transpose(np.concatenate([np.ones((len(plan), 1)), scores], axis=1))
    shown = sums[0] / len(plan)
    return np.divide(sums[1:], shown, out=np.zeros_like(sums[1:]), where=shown > 0).astype(np.float32)
