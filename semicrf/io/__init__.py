"""Files of each field, read into ``Segments`` and written from them.

| file | functions |
|---|---|
| CoNLL columns of IOB2 or BIOES tags | ``read_conll``, ``from_bioes``, ``to_segments``, ``from_segments``, ... |
| BED, GFF3 | ``read_bed``, ``read_gff3``, ``records_to_segments``, ``bed_records``, ``gff_features``, ``write_...`` |
| GenBank | ``read_genbank``, ``genbank_to_segments``, ``genbank_features``, ``write_genbank`` |
| Praat TextGrid | ``read_textgrid``, ``tier_to_segments``, ``segments_to_tier``, ``write_textgrid`` |
| CSV | ``read_table`` of numbers; ``read_segments``, ``write_segments`` |

Intervals that leave gaps become segments through ``from_intervals``: label 0 is the background. What is malformed is an
``InputError`` with the file, the line and the likely fix.
"""

from semicrf.io.bed import BedRecord, bed_records, read_bed, write_bed
from semicrf.io.conll import (
    Sentence,
    from_bioes,
    from_segments,
    read_conll,
    tag_names,
    to_bioes,
    to_segments,
    write_conll,
)
from semicrf.io.genbank import (
    GenBankFeature,
    GenBankRecord,
    Part,
    genbank_features,
    genbank_to_segments,
    read_genbank,
    write_genbank,
)
from semicrf.io.gff import Gff, GffFeature, gff_features, read_gff3, write_gff3
from semicrf.io.intervals import Interval, from_intervals, records_to_segments, to_intervals
from semicrf.io.table import Table, read_segments, read_table, write_segments
from semicrf.io.textgrid import Tier, read_textgrid, segments_to_tier, tier_to_segments, write_textgrid
from semicrf.metrics import EntityScores, entity_scores
from semicrf.metrics import Scores as TypeScores  # the name that it had here

__all__ = [
    "BedRecord", "EntityScores", "GenBankFeature", "GenBankRecord", "Gff", "GffFeature", "Interval", "Part", "Sentence",
    "Table", "Tier", "TypeScores", "bed_records", "entity_scores", "from_bioes", "from_intervals", "from_segments",
    "genbank_features", "genbank_to_segments", "gff_features", "read_bed", "read_conll", "read_genbank", "read_gff3",
    "read_segments", "read_table", "read_textgrid", "records_to_segments", "segments_to_tier", "tag_names",
    "tier_to_segments", "to_bioes", "to_intervals", "to_segments", "write_bed", "write_conll", "write_genbank",
    "write_gff3", "write_segments", "write_textgrid",
]  # fmt: skip
