"""semicrf: semi-Markov conditional random fields for every semiring.

>>> import torch, semicrf
>>> p = semicrf.FactoredPotentials(torch.zeros(1, 4, 2), torch.zeros(2, 2), torch.zeros(3, 2))
>>> semicrf.SemiCRFDistribution(p).log_count.exp().round().tolist()
[52.0]
"""

from semicrf.constraints import Constraints, Evidence
from semicrf.distribution import SemiCRFDistribution
from semicrf.errors import BackendError, InputError, SemiCRFError, SemiringError, SizeError
from semicrf.potentials import EdgePotentials, FactoredPotentials, Potentials, SegmentPotentials
from semicrf.segments import Segments

__version__ = "0.1.0"

__all__ = [
    "BackendError", "Constraints", "EdgePotentials", "Evidence", "FactoredPotentials", "InputError", "Potentials",
    "SegmentPotentials", "Segments", "SemiCRFDistribution", "SemiCRFError", "SemiringError", "SizeError", "__version__",
]  # fmt: skip
