"""The PyTorch side of SANE: data sets, networks to train, losses. Used from a checkout; not part of the wheel."""
