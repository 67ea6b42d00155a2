"""BED, GFF3, GenBank, TextGrid and CSV: there and back, against other readers, and what is said of malformed files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semicrf import io
from semicrf.errors import InputError
from semicrf.segments import Segments

GENOME = Path(__file__).parents[2] / "shared" / "data" / "genome" / "NC_000932.gb"
NAMES = ["between", "gene", "exon; part=1,2 %"]


def file(folder: Path, text: str | bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@st.composite
def tilings(draw, num_labels: int = 3, merged: bool = True):
    """Rows of one to three sequences; with `merged` no two neighbours of label 0, which read back as one."""
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        ends = sorted(draw(st.sets(st.integers(1, 30), min_size=1, max_size=8)))
        row: list[tuple[int, int, int]] = []
        for start, end in pairwise([0, *ends]):
            label = draw(st.integers(1 if merged and row and row[-1][2] == 0 else 0, num_labels - 1))
            row.append((start, end, label))
        rows.append(row)
    return rows


# --------------------------------------------------------------------------------------------------------- intervals
@given(tilings())
def test_intervals_there_and_back(rows):
    segments = Segments.from_list(rows)
    found = io.to_intervals(segments, NAMES)
    assert [[(s, e) for s, e, _ in row] for row in found] == [[(s, e) for s, e, c in row if c] for row in rows]
    assert io.from_intervals([reversed(row) for row in found], [row[-1][1] for row in rows], NAMES) == segments


@pytest.mark.parametrize(
    ("rows", "lengths", "names", "message"),
    [
        ([[(0, 3, "a"), (2, 4, "a")]], [5], ["", "a"], r"sequence 0: got intervals \(0, 3, 'a'\) and \(2, 4, 'a'\)"),
        (
            [[], [(0, 6, "a")]],
            [5, 5],
            ["", "a"],
            r"sequence 1: got interval \(0, 6, 'a'\); expected .* <= 5, the length",
        ),
        ([[(2, 2, "a")]], [5], ["", "a"], "0 <= start < end"),
        ([[(-1, 2, "a")]], [5], ["", "a"], "0 <= start < end"),
        ([[(0, 2, "b")]], [5], ["", "a"], "add 'b' to names"),
        ([[]], [5, 5], ["", "a"], "rows: got 1 sequences and 2 lengths"),
        ([[]], [5], ["a", "a"], "names: got"),
        ([[]], [5], "ab", "names: got"),
    ],
)
def test_interval_errors(rows, lengths, names, message):
    with pytest.raises(InputError, match=message):
        io.from_intervals(rows, lengths, names)


def test_records_on_unknown_sequences_and_labels_that_leave_records_out():
    records = [io.BedRecord("x", 0, 2, "gene"), io.BedRecord("y", 1, 3, "gene"), io.BedRecord("y", 0, 9, "region")]

    def label(r: io.BedRecord) -> str | None:
        return r.name if r.name == "gene" else None

    found = io.records_to_segments(records, {"y": 4, "x": 2, "z": 1}, NAMES, label)
    assert found.tolist() == [[(0, 1, 0), (1, 3, 1), (3, 4, 0)], [(0, 2, 1)], [(0, 1, 0)]]
    with pytest.raises(InputError, match="lengths: got no length of 'y'"):
        io.records_to_segments(records, {"x": 4}, NAMES, label)
    with pytest.raises(InputError, match="y: got interval"):
        io.records_to_segments(records, {"x": 2, "y": 2}, NAMES, label)
    with pytest.raises(InputError, match="lengths: got none"):
        io.records_to_segments([], {}, NAMES, label)


# --------------------------------------------------------------------------------------------------------------- BED
@given(tilings())
def test_bed_there_and_back(tmp_path_factory, rows):
    path, segments = tmp_path_factory.mktemp("bed") / "a.bed.gz", Segments.from_list(rows)
    lengths = {f"chr{i}": row[-1][1] for i, row in enumerate(rows)}
    records = io.bed_records(segments, list(lengths), NAMES)
    io.write_bed(path, records)
    assert io.read_bed(path) == records
    assert io.records_to_segments(io.read_bed(path), lengths, NAMES, lambda r: r.name) == segments


def test_bed_lines(tmp_path):
    text = "track name=x\nbrowser position chr1\n# a comment\n\nchr1 0 5\nchr1\t7\t7\nchr2\t3\t4\tab c\t9.5\t-\tx\ty\n"
    records = io.read_bed(file(tmp_path, "\ufeff" + text.replace("\n", "\r\n")))
    assert records == [
        io.BedRecord("chr1", 0, 5),
        io.BedRecord("chr1", 7, 7),
        io.BedRecord("chr2", 3, 4, "ab c", "9.5", "-", ("x", "y")),
    ]
    io.write_bed(tmp_path / "copy", records)
    assert [r[:6] for r in io.read_bed(tmp_path / "copy")] == [r[:6] for r in records]
    io.write_bed(tmp_path / "copy", records[:2])
    assert (tmp_path / "copy").read_text() == "chr1\t0\t5\nchr1\t7\t7\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t0\t5\nchr1\t0\n", r"file, line 2: got 2 columns in 'chr1\\t0'; .*tabs"),
        ("chr1\tx\t5\n", "file, line 1: got start 'x'; expected an integer of at least 0"),
        ("chr1\t-1\t5\n", "file, line 1: got start '-1'"),
        ("chr1\t1\t\u0665\n", "file, line 1: got end '\u0665'"),
        ("\nchr1\t6\t5\n", "file, line 2: got start 6 and end 5"),
        ("chr1\t0\t5\tname\t+\t0\n", r"file, line 1: got strand '0'; expected \+, - or"),
        (b"chr1\t0\t5\n\xff\xfe\n", "file, line 2: got bytes .*UTF-8"),
    ],
)
def test_bed_errors(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        io.read_bed(file(tmp_path, text))


@pytest.mark.parametrize(
    "record",
    [
        io.BedRecord("#1", 0, 1),
        io.BedRecord("a\tb", 0, 1),
        io.BedRecord("a", 2, 1),
        io.BedRecord("a", 0, 1, ""),
        io.BedRecord(" ", 0, 1),
    ],
)
def test_bed_that_would_not_read_back_is_not_written(tmp_path, record):
    with pytest.raises(InputError, match="record 1"):
        io.write_bed(tmp_path / "a", [io.BedRecord("a", 0, 1), record])
    assert not (tmp_path / "a").exists()


# -------------------------------------------------------------------------------------------------------------- GFF3
@given(tilings())
def test_gff3_there_and_back(tmp_path_factory, rows):
    path, segments = tmp_path_factory.mktemp("gff") / "a.gff3", Segments.from_list(rows)
    lengths = {f"chr {i}": row[-1][1] for i, row in enumerate(rows)}
    io.write_gff3(path, io.gff_features(segments, list(lengths), NAMES), lengths)
    features, regions = io.read_gff3(path)
    assert regions == lengths
    assert io.records_to_segments(features, regions, NAMES, lambda f: f.type) == segments


text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)


@given(
    st.lists(
        st.builds(
            io.GffFeature, text, text, text.filter(lambda t: t != "CDS"), st.just(3), st.integers(4, 9),
            st.none() | st.floats(allow_nan=False), st.sampled_from("+-.?"), st.sampled_from([None, 0, 1, 2]),
            st.dictionaries(text, st.lists(text, min_size=1, max_size=3), max_size=3),
        ),
        max_size=4,
    )
)  # fmt: skip
def test_gff3_features_of_any_text(tmp_path_factory, features):
    path = tmp_path_factory.mktemp("gff") / "a.gff3"
    io.write_gff3(path, features)
    assert io.read_gff3(path).features == features


def test_gff3_of_the_specification(tmp_path):
    lines = [
        "##gff-version 3.1.26", "##sequence-region ctg123 1 1497228", "# a comment",
        "ctg123\t.\tgene\t1000\t9000\t.\t+\t.\tID=gene00001;Name=EDEN",
        "ctg123\t.\tCDS\t1201\t1500\t1e-3\t+\t0\tID=cds1;Parent=mRNA1,mRNA2;", "###",
        "ctg%3B1\t.\texon\t1\t1\t.\t?\t.\t.", "##FASTA", ">ctg123", "acgt",
    ]  # fmt: skip
    features, lengths = io.read_gff3(file(tmp_path, gzip.compress("\n".join(lines).encode()), "a.gz"))
    assert lengths == {"ctg123": 1497228}
    assert features[0] == io.GffFeature(
        "ctg123", ".", "gene", 999, 9000, None, "+", None, {"ID": ["gene00001"], "Name": ["EDEN"]}
    )
    assert features[1].attributes == {"ID": ["cds1"], "Parent": ["mRNA1", "mRNA2"]}
    assert features[1][5:8] == (0.001, "+", 0)
    assert features[2] == io.GffFeature("ctg;1", ".", "exon", 0, 1, None, "?", None, {})


GFF = "##gff-version 3\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file: got an empty file; expected '##gff-version 3'"),
        ("chr1\t.\tgene\t1\t2\t.\t.\t.\t.\n", "file, line 1: .*'##gff-version 3' as the first line. .*GTF"),
        ("##gff-version 2\n", "file, line 1"),
        (GFF + "chr1\t.\tgene\t1\t2\n", "file, line 2: got 5 columns .*a dot"),
        (GFF + "chr1 . gene 1 2 . . . .\n", "file, line 2: got 1 columns .*tab"),
        (GFF + "c\t.\tgene\t0\t2\t.\t.\t.\t.\n", "file, line 2: got start '0'; expected an integer of at least 1"),
        (GFF + "c\t.\tgene\t3\t2\t.\t-\t.\t.\n", "file, line 2: got start 3 and end 2; .*the strand is column 7"),
        (GFF + "c\t.\tgene\t1\t2\tx\t.\t.\t.\n", "file, line 2: got score 'x'"),
        (GFF + "c\t.\tgene\t1\t2\t.\t0\t.\t.\n", "file, line 2: got strand '0'"),
        (GFF + "c\t.\tCDS\t1\t2\t.\t+\t.\t.\n", "file, line 2: got phase '.' of a CDS"),
        (GFF + 'c\t.\tgene\t1\t2\t.\t+\t.\tgene_id "x"\n', "file, line 2: got attribute 'gene_id .*GTF writes"),
        (GFF + "c\t.\tgene\t1\t2\t.\t+\t.\tID=a;ID=b\n", "file, line 2: got attribute 'ID=b'.*each tag once"),
        (GFF + "##sequence-region chr1 1\n", "file, line 2: got '##sequence-region chr1 1'"),
    ],
)
def test_gff3_errors(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        io.read_gff3(file(tmp_path, text))


@pytest.mark.parametrize("change", [{"start": 5}, {"strand": "x"}, {"phase": 3}, {"type": "CDS"}, {"start": -1}])
def test_gff3_that_would_not_read_back_is_not_written(tmp_path, change):
    with pytest.raises(InputError, match="feature 0"):
        io.write_gff3(tmp_path / "a", [io.GffFeature("a", ".", "gene", 1, 5)._replace(**change)])
    assert not (tmp_path / "a").exists()


# ----------------------------------------------------------------------------------------------------------- GenBank
RECORD = """LOCUS       X1                       20 bp    DNA     circular UNK 01-JAN-1980
DEFINITION  Something,
            of two lines.
FEATURES             Location/Qualifiers
     source          1..20
                     /organism="Arabidopsis
                     thaliana"
     gene            complement(join(<1..4,
                     7..>9))
                     /gene="a ""b"" c"
                     /pseudo
     CDS             order(12,14..16)
                     /codon_start=1
                     /translation="MK
                     /AV"
                     /note="x"
                     /note="y=z"
ORIGIN      first base
        1 acgtacgtac gtnnacgtac
//
"""


def test_genbank_by_hand(tmp_path):
    (record,) = io.read_genbank(file(tmp_path, RECORD))
    assert record[:4] == ("X1", 20, True, "ACGTACGTACGTNNACGTAC")
    source, gene, coding = record.features
    assert source == io.GenBankFeature("source", (io.Part(0, 20, 1),), {"organism": ["Arabidopsis thaliana"]})
    assert gene.parts == (io.Part(6, 9, -1, open_end=True), io.Part(0, 4, -1, open_start=True))
    assert gene.qualifiers == {"gene": ['a "b" c'], "pseudo": [""]}
    assert coding.parts == (io.Part(11, 12, 1), io.Part(13, 16, 1))
    assert coding.qualifiers == {"codon_start": ["1"], "translation": ["MK/AV"], "note": ["x", "y=z"]}
    segments, names = io.genbank_to_segments(record, ["gene", "CDS"])
    assert names == ["intergenic", "gene+", "gene-", "CDS+", "CDS-"]
    expected = [(0, 4, 2), (4, 6, 0), (6, 9, 2), (9, 11, 0), (11, 12, 3), (12, 13, 0), (13, 16, 3), (16, 20, 0)]
    assert segments.tolist() == [expected]
    with pytest.raises(InputError, match="types: got"):
        io.genbank_to_segments(record, [])
    io.write_genbank(tmp_path / "copy", [record, record._replace(sequence="", features=[])])
    assert io.read_genbank(tmp_path / "copy") == [record, record._replace(sequence="", features=[])]


@given(tilings(num_labels=3))
def test_genbank_there_and_back(tmp_path_factory, rows):
    path, names = tmp_path_factory.mktemp("gb") / "a.gb", ["intergenic", "gene+", "gene-"]
    segments = Segments.from_list(rows)
    features = io.genbank_features(segments, names)
    records = [
        io.GenBankRecord(f"X{i}", row[-1][1], False, "ACGT" * 8, own)
        for i, (row, own) in enumerate(zip(rows, features, strict=True))
    ]
    io.write_genbank(path, [r._replace(sequence=r.sequence[: r.length]) for r in records])
    for record, row in zip(io.read_genbank(path), rows, strict=True):
        found, theirs = io.genbank_to_segments(record, ["gene"])
        assert theirs == names
        assert found.tolist() == [row]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("LOCUS ", "LOCAS ", "file, line 1: got 'LOCAS .*'LOCUS name length bp'"),
        ("//\n", "", "file, line 19: got the end of the file; expected // "),
        ("gtnnacgtac", "gtnnacgta", "file, line 19: got 19 bases; expected 20, the length of LOCUS"),
        ("gtnnacgtac", "gtnnacgt*c", "file, line 19: got .*only letters stand for bases"),
        (
            "order(12,14..16)",
            "order(12,14..26)",
            "file, line 12: location: got '14..26'; expected .* <= 20, the length",
        ),
        ("order(12,14..16)", "order(12,16..14)", "file, line 12: location: got '16..14'"),
        ("order(12,14..16)", "order(12,A1.1:14..16)", "file, line 12: location: got 'A1.1:14..16'.*other records"),
        ("7..>9))", "7..>9)", r"file, line 8: location: got 'join\(<1..4,7..>9'"),
        ("     CDS ", "    CDS  ", "file, line 12: got .*column 6"),
        ('"y=z"', '"y=z', "file, line 17: got '/note=\"y=z'; expected .*close the quotes"),
        ("/pseudo", "pseudo", "file, line 11: got 'pseudo'; expected /qualifier=value"),
    ],
)
def test_genbank_errors(tmp_path, old, new, message):
    assert old in RECORD
    with pytest.raises(InputError, match=message):
        io.read_genbank(file(tmp_path, RECORD.replace(old, new)))


def test_genbank_that_would_not_read_back_is_not_written(tmp_path):
    record = io.GenBankRecord("X1", 4, False, "acgt", [])
    with pytest.raises(InputError, match="record 0"):
        io.write_genbank(tmp_path / "a", [record])
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(not GENOME.is_file(), reason="needs a GenBank file, which lies outside the repository")
def test_a_real_genome_there_and_back(tmp_path):
    (record,) = io.read_genbank(GENOME)
    assert record[:3] == ("NC_000932", 154478, True)
    assert sum(f.type == "gene" for f in record.features) == 129
    io.write_genbank(tmp_path / "copy.gb.gz", [record])
    assert io.read_genbank(tmp_path / "copy.gb.gz") == [record]
    segments, names = io.genbank_to_segments(record, ["gene"])
    features = io.genbank_features(segments, names)[0]
    again, _ = io.genbank_to_segments(record._replace(features=features), ["gene"])
    assert again == segments


@pytest.mark.skipif(not GENOME.is_file(), reason="needs a GenBank file, which lies outside the repository")
def test_a_real_genome_against_biopython():
    seqio = pytest.importorskip("Bio.SeqIO", reason="biopython is in the extra dev")
    theirs, (record,) = seqio.read(GENOME, "genbank"), io.read_genbank(GENOME)
    assert record.sequence == str(theirs.seq)
    assert len(record.features) == len(theirs.features)
    for ours, other in zip(record.features, theirs.features, strict=True):
        assert ours.type == other.type
        parts = [(int(p.start), int(p.end), p.strand) for p in other.location.parts]
        assert [p[:3] for p in ours.parts] == parts
        assert ours.qualifiers == other.qualifiers


# ---------------------------------------------------------------------------------------------------------- TextGrid
LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0 ! start
xmax = 2.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 2.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.75
            text = ""
        intervals [2]:
            xmin = 0.75
            xmax = 1.5
            text = "say ""ah"""
        intervals [3]:
            xmin = 1.5
            xmax = 2.5
            text = "2 ! 1
line"
    item [2]:
        class = "TextTier"
        name = "tones"
        xmin = 0
        xmax = 2.5
        points: size = 1
        points [1]:
            number = 1e-1
            mark = "H*"
'''
SHORT = '''"ooTextFile"
"TextGrid"
0 2.5 <exists> 2
"IntervalTier" "words" 0 2.5 3
0 0.75 ""  0.75 1.5 "say ""ah""" 1.5 2.5 "2 ! 1
line"
"TextTier" "tones" 0 2.5 1 0.1 "H*"
'''
TIERS = [
    io.Tier("words", 0.0, 2.5, [(0.0, 0.75, ""), (0.75, 1.5, 'say "ah"'), (1.5, 2.5, "2 ! 1\nline")]),
    io.Tier("tones", 0.0, 2.5, [(0.1, 0.1, "H*")], points=True),
]


@pytest.mark.parametrize("text", [LONG, SHORT, LONG.replace("\n", "\r\n"), "\ufeff" + SHORT])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_textgrids_that_read_alike(tmp_path, text, encoding):
    path = file(tmp_path, text.removeprefix("\ufeff" if encoding == "utf-16" else "").encode(encoding))
    assert io.read_textgrid(path) == TIERS
    io.write_textgrid(tmp_path / "copy", TIERS)
    assert io.read_textgrid(tmp_path / "copy") == TIERS


@given(tilings(merged=False), st.sampled_from([0.01, 0.005, 1 / 3, 0.0625]))
def test_textgrid_there_and_back(tmp_path_factory, rows, hop):
    path, names = tmp_path_factory.mktemp("tg") / "a.TextGrid", ["", "a", 'b "c"\n1 ! <exists>']
    tiers = [
        io.segments_to_tier(segments, hop, names, f"tier {i}") for i, segments in enumerate(Segments.from_list(rows))
    ]
    io.write_textgrid(path, tiers)
    assert io.read_textgrid(path) == tiers
    found = [io.tier_to_segments(tier, hop, names).tolist()[0] for tier in io.read_textgrid(path)]
    assert found == rows


def test_textgrid_against_praatio(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid", reason="praatio is in the extra dev")
    io.write_textgrid(tmp_path / "ours", TIERS)
    theirs = textgrid.openTextgrid(str(tmp_path / "ours"), includeEmptyIntervals=True)
    assert list(theirs.tierNames) == ["words", "tones"]
    assert [tuple(i) for i in theirs.getTier("words").entries] == TIERS[0].marks
    assert [(p.time, p.time, p.label) for p in theirs.getTier("tones").entries] == TIERS[1].marks
    for layout in ("long_textgrid", "short_textgrid"):
        theirs.save(str(tmp_path / layout), layout, includeBlankSpaces=True)
        assert io.read_textgrid(tmp_path / layout) == TIERS


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"ooTextFile"', '"ooBinaryFile"', "file, line 1: got 'ooBinaryFile'.*save it in Praat as a text file"),
        ("xmin = 0 !", "xmin = zero !", "file, line 6: got <exists>; expected the end of the whole"),
        ("size = 2\n", "size = 3\n", "file, at its end: got no more; .*complete"),
        ("size = 2\n", "size = 1.5\n", "file, line 7: got 1.5; expected the number of tiers, an integer"),
        ("<exists>", "", "file, line 7: got 2; expected <exists> or <absent>"),
        ("size = 3", "size = 2", r"file, line 22: got a tier 'words' up to 1.5; expected intervals up to its end, 2.5"),
        ("size = 3", "size = 4", "file, line 29: .*expected the start of an interval, a number"),
        ("xmin = 0.75", "xmin = 0.8", r"file, line 21: got interval 0.8..1.5 of tier 'words'; expected one from 0.75"),
        ("xmax = 1.5", "xmax = 3.5", "file, line 21: got interval 0.75..3.5"),
        ("xmax = 1.5", "xmax = 1.5.5", "file, line 21: got 1.5.5; expected the end of an interval, a number"),
        ('"TextTier"', '"PointTier"', 'file, line 29: got \'PointTier\'; expected "IntervalTier" or "TextTier"'),
        ('name = "tones"', "name = tones", "file, line 31: got 0; expected the name of a tier, in quotes"),
        ('"H*"', '"H*', "file, line 36: got a quote that is not closed"),
    ],
)
def test_textgrid_errors(tmp_path, old, new, message):
    assert old in LONG
    with pytest.raises(InputError, match=message):
        io.read_textgrid(file(tmp_path, LONG.replace(old, new, 1)))


def test_textgrid_bytes_and_what_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"file, line 2: got bytes .*utf-8"):
        io.read_textgrid(file(tmp_path, b'"ooTextFile"\n"Text\xffGrid"'))
    gap = io.Tier("x", 0.0, 1.0, [(0.0, 0.4, "a"), (0.5, 1.0, "b")])
    for tiers, message in (([gap], "tiers, line"), ([], "tiers: got none")):
        with pytest.raises(InputError, match=message):
            io.write_textgrid(tmp_path / "a", tiers)
    assert not (tmp_path / "a").exists()


def test_textgrid_to_segments_errors():
    words, tones = TIERS
    names = ["", 'say "ah"', "2 ! 1\nline"]
    assert io.tier_to_segments(words, 0.5, names).tolist() == [[(0, 2, 0), (2, 3, 1), (3, 5, 2)]]
    for call, message in (
        (lambda: io.tier_to_segments(tones, 0.5, names), "tier: got 'tones', of points"),
        (lambda: io.tier_to_segments(words, 0.0, names), "hop: got 0.0"),
        (lambda: io.tier_to_segments(words, 5.0, names), r"hop: got 5.0 for interval 0.0..0.75 .*a smaller hop"),
        (lambda: io.tier_to_segments(words, 0.5, [""]), "add 'say"),
        (lambda: io.segments_to_tier(Segments.from_list([[(0, 1, 0)]] * 2), 0.5, names), r"got batch shape \(2,\)"),
    ):
        with pytest.raises(InputError, match=message):
            call()


# --------------------------------------------------------------------------------------------------------------- CSV
@given(tilings(merged=False), st.sampled_from([None, NAMES]), st.booleans())
def test_csv_segments_there_and_back(tmp_path_factory, rows, names, probability):
    path, segments = tmp_path_factory.mktemp("csv") / "a.csv", Segments.from_list(rows)
    sequences = [f'the "{i}", of\nmany' for i in range(len(rows))]
    if probability:
        segments = replace(segments, probability=torch.rand(segments.start.shape))
    io.write_segments(path, segments, sequences, names)
    assert io.read_segments(path, names) == (segments, sequences)


def test_csv_tables(tmp_path):
    path = file(tmp_path, 'when,"a, b",c,d\n1 May,1,,x\n2 May,2e3, 7 ,y\n')
    table = io.read_table(path)
    assert table.names == ["a, b", "c"]
    assert table.values.nan_to_num(-1).tolist() == [[1, -1], [2000, 7]]
    assert io.read_table(path, ["c"]).values.nan_to_num(-1).tolist() == [[-1], [7]]
    assert io.read_table(file(tmp_path, "a;b\n1;2\n"), delimiter=";").values.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("call", "text", "message"),
    [
        (io.read_table, "", "file: got 0 lines"),
        (io.read_table, "a,b\n", "file: got 1 lines"),
        (io.read_table, "a,b\n1,2\n1,2,3\n", "file, line 3: got 3 fields; expected 2"),
        (io.read_table, "a,b\nx,y\n", "file: got no column of numbers"),
        (io.read_table, 'a,b\n1,"2\n', "file, line 2: got unexpected end of data"),
        (lambda p: io.read_table(p, ["c"]), "a,b\n1,2\n", r"columns: got \['c'\]; expected names of the header"),
        (lambda p: io.read_table(p, ["b"]), "a,b\n1,2\n1,x\n", "file, line 3: got 'x' in column 'b'"),
        (lambda p: io.read_table(p, ["b"]), "a,b\n1,inf\n", "file, line 2: got 'inf' in column 'b'"),
        (io.read_segments, "", r"file: got the columns \[\]"),
        (io.read_segments, "sequence,start,end\nx,0,1\n", "file, line 1: got the columns"),
        (io.read_segments, "sequence,start,end,label\n", "file: got no rows"),
        (io.read_segments, "sequence,start,end,label\nx,0,1\n", "file, line 2: got 3 fields"),
        (io.read_segments, "sequence,start,end,label\nx,0,1.5,0\n", "file, line 2: got end '1.5'"),
        (io.read_segments, "sequence,start,end,label\nx,0,1,0\nx,1,1,0\n", "file, line 3: got start 1 and end 1"),
        (io.read_segments, "sequence,start,end,label\nx,0,1,a\n", "file, line 2: got label 'a'; expected an integer"),
        (lambda p: io.read_segments(p, ["b"]), "sequence,start,end,label\nx,0,1,a\n", "file, line 2: .*add 'a'"),
    ],
)
def test_csv_errors(tmp_path, call: Callable[[Any], Any], text, message):
    with pytest.raises(InputError, match=message):
        call(file(tmp_path, text))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequences": ["x", "x"]}, "sequences: got 1 different names; expected 2"),
        ({"names": ["a"]}, "segments: got label 1"),
    ],
)
def test_csv_segments_that_are_not_written(tmp_path, options, message):
    segments = Segments.from_list([[(0, 1, 0)], [(0, 1, 1)]])
    with pytest.raises(InputError, match=message):
        io.write_segments(tmp_path / "a", segments, **options)
    with pytest.raises(InputError, match=r"segments: got batch shape \(\)"):
        io.write_segments(tmp_path / "a", segments[0])
    assert not (tmp_path / "a").exists()


# ------------------------------------------------------------------------------------------------------------- BIOES
TAGS = ["O", "S-a", "B-a", "I-a", "E-a", "S-b", "B-b", "E-b", "S-b", "O"]


def test_bioes_there_and_back():
    tokens = list("abcdefghij")
    bio = ["O", "B-a", "B-a", "I-a", "I-a", "B-b", "B-b", "I-b", "B-b", "O"]
    assert io.from_bioes([(tokens, TAGS)]) == [(tokens, bio)]
    assert io.to_bioes([(tokens, bio)]) == [(tokens, TAGS)]
    bilou = [tag.replace("S-", "U-").replace("E-", "L-") for tag in TAGS]
    assert io.from_bioes([(tokens, bilou)]) == [(tokens, bio)]
    assert io.to_bioes([(["x", "y"], ["I-a", "I-b"])])[0].tags == ["S-a", "S-b"]


@given(st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"]), min_size=1, max_size=9))
def test_bioes_keeps_segments(tags):
    sentence = [(["x"] * len(tags), tags)]
    again = io.from_bioes(io.to_bioes(sentence))
    assert io.to_segments(again, ["O", "a", "b"]) == io.to_segments(sentence, ["O", "a", "b"])


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["B-a", "O"], "sentence 1, token 1: got tag 'O' after 'B-a'"),
        (["O", "I-a"], "sentence 1, token 1: got tag 'I-a' after 'O'"),
        (["B-a", "E-b"], "sentence 1, token 1: got tag 'E-b' after 'B-a'"),
        (["O", "B-a"], "sentence 1, token 2: got the end of the sentence after 'B-a'"),
        (["X-a"], "sentence 1, token 0: got tag 'X-a'"),
        (["B"], "sentence 1, token 0: got tag 'B'"),
    ],
)
def test_bioes_errors(tags, message):
    with pytest.raises(InputError, match=message):
        io.from_bioes([(["x"], ["O"]), (["x"] * len(tags), tags)])
