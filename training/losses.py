"""The losses: NT-Xent for similarity; those of SANE and a cross-entropy for attributes (docs/method.md, Training)."""

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.1
HEATMAP_WEIGHT = 0.005
"""Of the heat-map loss beside `attribute_loss`, as published."""


def contrastive_loss(embeddings: Tensor, groups: Tensor, pictures: Tensor, weights: Tensor | None = None) -> Tensor:
    """NT-Xent (Chen et al. 2020, equation 1) over B pairs.

    embeddings (2B, D): the left pictures, then the right ones
    groups (B,): pairs of one group are not each other's negatives; pictures (2B,): nor is a picture its own
    weights (B, D): what a pair's comparisons are multiplied by, from the condition of the pair; None: nothing
    """
    count = len(groups)
    both = torch.cat([groups, groups])
    positive = torch.arange(2 * count).roll(count)
    left_out = (both[:, None] == both[None]) | (pictures[:, None] == pictures[None])  # the diagonal included
    left_out[torch.arange(2 * count), positive] = False
    logits = _cosines(embeddings, weights) / TEMPERATURE  # (2B, 2B)
    return F.cross_entropy(logits.masked_fill(left_out, -1e9), positive)


def _cosines(embeddings: Tensor, weights: Tensor | None) -> Tensor:
    """(2B, 2B): row i compares picture i with every other under the condition of picture i's pair."""
    if weights is None:
        z = F.normalize(embeddings)
        return z @ z.T
    w = torch.cat([weights, weights])  # (2B, D)
    dots = (embeddings * w.square()) @ embeddings.T
    norms = (w.square() @ embeddings.square().T).clamp_min(1e-12).sqrt()  # (2B, 2B): |w_i * e_j|
    return dots / (norms * norms.diagonal()[:, None])


def attribute_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """SmoothL1 between softmax(scores) and labels of 1 / (number of true attributes) on the true ones, else 0.

    scores: (n, A); truth: (n, A) bool
    """
    labels = truth.to(scores.dtype)
    return F.smooth_l1_loss(scores.softmax(1), labels / labels.sum(1, keepdim=True).clamp_min(1))


def weighted_cross_entropy(scores: Tensor, truth: Tensor, positive_weights: Tensor) -> Tensor:
    """Binary cross-entropy, a positive of attribute i counting `positive_weights[i]` times (A,): what learns more on small
    data than `attribute_loss`.
    """
    return F.binary_cross_entropy_with_logits(scores, truth.to(scores.dtype), pos_weight=positive_weights)


def heatmap_loss(activations: Tensor, truth: Tensor, saliency: Tensor, valid: Tensor) -> Tensor:
    """How far saliency maps of a picture are from the activation map of the nearest of its true attributes.

    activations: (n, A, h, w); truth: (n, A) bool; saliency: (n, K, h * w), raw maps at the scale of 2000 masks;
    valid: (n, K), 1 where there is a map. A picture without a true attribute counts 1 per map, as published. 0 without maps.
    """
    maps = activations.flatten(2).softmax(2)  # (n, A, h * w)
    distances = torch.cdist(saliency.softmax(2), maps, compute_mode="donot_use_mm_for_euclid_dist")  # (n, K, A)
    nearest = distances.masked_fill(~truth[:, None], 1.0).amin(2).clamp(max=1)  # (n, K)
    return (nearest * valid).sum() / valid.sum().clamp_min(1)
