"""The losses: NT-Xent for similarity; those of SANE and a cross-entropy for attributes (docs/method.md, Training)."""

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.1
HEATMAP_WEIGHT = 0.005
"""Published weight of the heat-map loss beside `attribute_loss`."""


def contrastive_loss(embeddings: Tensor, groups: Tensor, pictures: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return NT-Xent (Chen et al. 2020, equation 1) over B pairs.

    embeddings: (2B, D) float32, the left pictures, then the right ones
    groups: (B,) int64, pairs of one group are not each other's negatives; pictures: (2B,) int64, nor is a picture its own
    weights: (B, D) float32 of each pair's condition, which multiply the embeddings; None if there are no conditions
    """
    count = len(groups)
    both = torch.cat([groups, groups])
    positive = torch.arange(2 * count).roll(count)
    left_out = (both[:, None] == both[None]) | (pictures[:, None] == pictures[None])  # the diagonal included
    left_out[torch.arange(2 * count), positive] = False
    logits = _cosines(embeddings, weights) / TEMPERATURE  # (2B, 2B)
    return F.cross_entropy(logits.masked_fill(left_out, -1e9), positive)


def _cosines(embeddings: Tensor, weights: Tensor | None) -> Tensor:
    """Return (2B, 2B): row i compares picture i with every other one under the condition of picture i's pair."""
    if weights is None:
        z = F.normalize(embeddings)
        return z @ z.T
    w = torch.cat([weights, weights])  # (2B, D)
    dots = (embeddings * w.square()) @ embeddings.T
    norms = (w.square() @ embeddings.square().T).clamp_min(1e-12).sqrt()  # (2B, 2B): |w_i * e_j|
    return dots / (norms * norms.diagonal()[:, None])


def attribute_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Return SmoothL1 between softmax(scores) and labels: 1 / (number of true attributes) for those, 0 for the others.

    scores: (n, A); truth: (n, A) bool
    """
    labels = truth.to(scores.dtype)
    return F.smooth_l1_loss(scores.softmax(1), labels / labels.sum(1, keepdim=True).clamp_min(1))


def weighted_cross_entropy(scores: Tensor, truth: Tensor, positive_weights: Tensor) -> Tensor:
    """Return the binary cross-entropy, in which a positive of attribute i counts `positive_weights[i]` times.

    scores: (n, A); truth: (n, A) bool; positive_weights: (A,). On little data it learns more than `attribute_loss`.
    """
    return F.binary_cross_entropy_with_logits(scores, truth.to(scores.dtype), pos_weight=positive_weights)


def heatmap_loss(activations: Tensor, truth: Tensor, saliency: Tensor, valid: Tensor) -> Tensor:
    """Return the mean distance of a picture's saliency maps from the activation map of the nearest of its true attributes.

    activations: (n, A, h, w); truth: (n, A) bool; saliency: (n, K, h * w), raw maps at the scale of 2000 masks
    valid: (n, K), 1 for a map, 0 for none. A picture without a true attribute counts 1 per map, as published. Without any
    maps the loss is 0.
    """
    maps = activations.flatten(2).softmax(2)  # (n, A, h * w)
    distances = torch.cdist(saliency.softmax(2), maps, compute_mode="donot_use_mm_for_euclid_dist")  # (n, K, A)
    nearest = distances.masked_fill(~truth[:, None], 1.0).amin(2).clamp(max=1)  # (n, K)
    return (nearest * valid).sum() / valid.sum().clamp_min(1)
