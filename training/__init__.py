"""The PyTorch side of SANE: data sets, networks to train, losses. It is used from a checkout and is not in the wheel."""

import export  # noqa: F401 - stops here if `engine` is not ours
