"""How good a segmentation is, and how honest its probabilities are: measures of ``Segments`` against ``Segments``.

Every measure takes the true segmentation first. ``gold`` and ``predicted`` have one batch shape; padding is not read,
and a sequence of count 0 holds no segment. Counts are summed over the batch before they are divided (micro average); a
score whose denominator is 0 is 0.
"""

from semicrf.metrics.calibration import Calibration, calibration, reliability
from semicrf.metrics.distances import covering, hausdorff
from semicrf.metrics.scores import (
    EntityScores,
    Scores,
    boundary_scores,
    confusion,
    entity_scores,
    matches,
    position_scores,
    segment_scores,
)

__all__ = [
    "Calibration", "EntityScores", "Scores", "boundary_scores", "calibration", "confusion", "covering",
    "entity_scores", "hausdorff", "matches", "position_scores", "reliability", "segment_scores",
]  # fmt: skip
