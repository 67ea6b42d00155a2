"""A layer that turns features into a semi-Markov CRF, what to train it with, and ways to it from other layers."""

from semicrf.nn.head import SemiCRFHead
from semicrf.nn.losses import distillation, entropy, minimum_risk, negative_log_likelihood, posterior_regularisation
from semicrf.nn.recipes import LinearChainCRF, from_flash_semicrf, lengths_of

__all__ = [
    "LinearChainCRF", "SemiCRFHead", "distillation", "entropy", "from_flash_semicrf", "lengths_of", "minimum_risk",
    "negative_log_likelihood", "posterior_regularisation",
]  # fmt: skip
