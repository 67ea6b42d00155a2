"""Files of each field, read into ``Segments`` and written from them."""

from semicrf.io.conll import Sentence, from_segments, read_conll, tag_names, to_segments, write_conll
from semicrf.metrics import EntityScores, entity_scores
from semicrf.metrics import Scores as TypeScores  # the name that it had here

__all__ = [
    "EntityScores", "Sentence", "TypeScores", "entity_scores", "from_segments", "read_conll", "tag_names",
    "to_segments", "write_conll",
]  # fmt: skip
