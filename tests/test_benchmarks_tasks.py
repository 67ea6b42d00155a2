"""The tasks run, learn what can be learnt from simulated data, and say what is wrong with a file; measures by hand."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks import codons, genome, tasks, timeseries
from semicrf.errors import InputError
from semicrf.segments import Segments

GENBANK = Path(__file__).parents[2] / "shared" / "data" / "genome" / "NC_000932.gb"
MODELS = [
    tasks.SOFTMAX, tasks.CHAIN, f"{tasks.CHAIN}, posterior", tasks.SEGMENTS, f"{tasks.SEGMENTS}, posterior",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def headless():
    pytest.importorskip("matplotlib", reason="pictures need the extra plots").use("Agg")


def run(task, folder: Path, arguments: str) -> dict:
    output, threads = folder / "results" / "found.json", torch.get_num_threads()
    task.main([*arguments.split(), "--output", str(output)])
    assert torch.get_num_threads() == threads
    assert output.with_suffix(".png").stat().st_size > 5000
    return json.loads(output.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------------ the tasks
@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "metric", "learnt"), [(genome, "nucleotide F1", 0.5), (timeseries, "position F1", 0.3)]
)
def test_a_quick_run_learns_under_every_decoder_and_saves_what_it_prints(task, metric, learnt, tmp_path, capsys):
    saved = run(task, tmp_path, "--quick --seed 3")
    printed = capsys.readouterr().out
    assert [row["model"] for row in saved["results"]] == MODELS
    assert {row["seed"] for row in saved["results"]} == {3}
    assert saved["command"] == f"python -m {task.__name__} --quick --seed 3"
    for row in saved["results"]:
        assert row[metric] > learnt
        assert saved["summary"][row["model"]][metric] == [row[metric], 0.0]
        assert f"{row[metric]:.4f}" in printed
    assert all(0 <= value[0] <= 1 for of in saved["summary"].values() for value in of.values())


def test_the_same_seed_gives_the_same_results_and_seeds_are_summed_up(tmp_path):
    a, b = (run(timeseries, tmp_path / name, "--quick --steps 4 --seed 5") for name in "ab")
    for x, y in zip(a["results"], b["results"], strict=True):
        assert {**x, "seconds": 0} == {**y, "seconds": 0}
    rows = [{"model": "m", "f": 0.2}, {"model": "m", "f": 0.4}, {"model": "n", "f": 1.0}]
    found = tasks.summary(rows, ["f"])
    assert found == {"m": {"f": [pytest.approx(0.3), pytest.approx(math.sqrt(0.02))]}, "n": {"f": [1.0, 0.0]}}
    assert "0.3000 ± 0.141" in tasks.report(found, ["f"])


def test_a_genome_is_needed():
    with pytest.raises(SystemExit):
        genome.main([])


# ---------------------------------------------------------------------------------------------------------- the genome
def test_windows_and_the_other_strand():
    whole = genome.Genome(torch.tensor([0, 1, 2, 3, 4, 0, 0, 1]), [(0, 2, 0), (2, 5, 3), (5, 6, 1), (6, 8, 2)])
    part = genome.window(whole, 1, 6)
    assert part.bases.tolist() == [1, 2, 3, 4, 0]
    assert part.row == [(0, 1, 0), (1, 4, 3), (4, 5, 1)]
    other = genome.reverse_complement(part)
    assert other.bases.tolist() == [3, 4, 0, 1, 2]
    assert other.row == [(0, 1, 2), (1, 4, 4), (4, 5, 0)]
    assert torch.equal(genome.reverse_complement(other).bases, part.bases)
    batch = genome.batch_of([part, other])
    assert batch.inputs[0, :, :4].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert batch.gold.tolist() == [part.row, other.row]


def test_open_reading_frames_are_counted_codon_by_codon():
    bases = torch.randint(0, 4, (97,), generator=torch.Generator().manual_seed(0))
    found = codons.reading_frames(bases)
    triples = [tuple(bases[t : t + 3].tolist()) for t in range(97)]
    for t in range(2, 97):
        for r in range(3):
            first = last = t - r  # from the stop before it, or the end, up to the next stop
            while first >= 3 and triples[first] not in codons.STOPS:
                first -= 3
            while last + 3 < 97 and triples[last + 3] not in codons.STOPS:
                last += 3
            assert found[t, r] == (last - first) // 3 + 1, (t, r)
    assert codons.features(bases).shape == (97, codons.FEATURES)
    other = codons.features(codons.other_strand(bases)).flip(0)  # on the other strand the strands change places
    assert torch.equal(codons.features(bases)[:, 10], other[:, 11])
    assert torch.equal(codons.features(bases)[:, 12:14], other[:, 14:])


def test_starts_and_stops_are_marked_with_what_is_open_between_them():
    bases = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(1))
    bases[[7, 8, 9]] = torch.tensor(codons.START)
    found = codons.marks(bases)
    triples = [tuple(bases[t : t + 3].tolist()) for t in range(198)]
    for t in range(198):
        after = [u for u in range(t, 198, 3) if triples[u] in codons.STOPS]
        end = after[0] // 3 - t // 3 if after else len(range(t, 200, 3))  # codons to the next stop, or to the end
        expected = math.log2(end + 1) if triples[t] == codons.START else 0.0
        assert found[t, 0].item() == pytest.approx(expected), t
        before = [u for u in range(t - 3, -1, -3) if triples[u] in codons.STOPS]
        since = (t - before[0]) // 3 if before else t // 3 + 1
        expected = math.log2(since) if triples[t] in codons.STOPS else 0.0
        assert found[t + 2, 1].item() == pytest.approx(expected), t
    assert (found[:2, 1] == 0).all()
    assert (found[198:, 0] == 0).all()
    assert found[7, 0] > 0


def test_the_rule_finds_open_reading_frames_from_start_to_stop():
    start, stop, other = [0, 3, 2], [3, 0, 0], [1, 1, 1]
    gene = torch.tensor(start + other * 4 + stop)  # 18 bases
    bases = torch.cat(
        [torch.ones(7, dtype=torch.int64), gene, torch.ones(5, dtype=torch.int64), codons.other_strand(gene)]
    )
    assert codons.by_rule(bases, 18) == [(7, 25, 0), (30, 48, 1)]
    assert codons.by_rule(bases, 19) == []
    inner = torch.tensor(start + other + start + other * 2 + stop)  # the first start counts
    assert codons.by_rule(inner, 0) == [(0, 18, 0)]
    assert genome.ruled(bases).tolist() == [[(0, 48, 0)]]  # none of 300 bases


def test_counts_of_a_genome_are_where_its_decoders_begin():
    part = genome.Genome(torch.zeros(60, dtype=torch.int64), [(0, 10, 0), (10, 30, 5), (30, 50, 0), (50, 60, 3)])
    table = genome.transitions([part.row], positions=False).exp()
    assert table[0].tolist() == pytest.approx([0.1 / 2.7] * 3 + [1.1 / 2.7, 0.1 / 2.7, 1.1 / 2.7, 0.1 / 2.7])
    table = genome.transitions([part.row], positions=True).exp()
    assert table[0, 0].item() == pytest.approx(28.1 / 30.7)  # 9 and 19 of them inside of segments
    assert torch.equal(table[1], torch.full((7,), table[1, 0].item()))
    chain, segments = (genome.make(name, [part], 40, plain=False) for name in (tasks.CHAIN, tasks.SEGMENTS))
    assert isinstance(chain, tasks.Crf)
    assert isinstance(segments, tasks.Crf)
    rows = [part.row, genome.reverse_complement(part).row]
    assert torch.equal(chain.head.transition.exp(), genome.transitions(rows, positions=True).exp())
    periodic = segments.head.duration
    assert isinstance(periodic, genome.Periodic)
    assert periodic.durations.location[0].item() == pytest.approx((math.log(10) + math.log(20)) / 2)
    assert periodic.durations.location[1].item() == pytest.approx(math.log(20))  # seen nowhere: as it begins by itself
    with torch.no_grad():
        periodic.score[0, 5] = 2.0
    found, plain = periodic().double(), periodic.durations().double()
    assert found.exp().sum(0).tolist() == pytest.approx([1.0] * 7)
    step = (found - plain)[:, 5]
    assert (step[2::3] - step[0]).tolist() == pytest.approx([2.0] * 13, abs=1e-4)
    assert step[3].item() == pytest.approx(step[0].item(), abs=1e-4)


def test_quarters_are_left_out_one_after_the_other():
    whole = genome.simulate(20, torch.Generator().manual_seed(0))
    T = len(whole.bases)
    ((parts, test),) = genome.splits(whole, validate=False)
    assert torch.equal(torch.cat([parts[0].bases, test.bases]), whole.bases)
    found = genome.splits(whole, validate=True)
    assert [len(parts) for parts, _ in found] == [1, 2, 2, 1]
    assert torch.equal(torch.cat([test.bases for _, test in found]), whole.bases[: T // 2])
    for parts, test in found:
        assert sum(len(part.bases) for part in parts) + len(test.bases) == T // 2
        drawn = genome.draw(parts, 50, torch.Generator().manual_seed(0))
        assert drawn.inputs.shape == (1, 50, codons.FEATURES)
        assert drawn.lengths.tolist() == [50]


def test_a_simulated_genome_has_genes_from_start_to_stop_on_both_strands():
    whole = genome.simulate(20, torch.Generator().manual_seed(0))
    assert whole.row[-1][1] == len(whole.bases)
    genes = [s for s in whole.row if s[2]]
    assert {c for _, _, c in genes} == set(genome.CODING)
    for start, end, label in genes:
        bases = whole.bases[start:end] if label == 5 else 3 - whole.bases[start:end].flip(0)
        assert bases[:3].tolist() == [0, 3, 2]
        assert bases[-3:].tolist() == [3, 0, 0]
        assert len(bases) % 3 == 0


def test_genes_are_runs_of_a_strand_and_scores_are_by_hand():
    gold = Segments.from_list([[(0, 40, 0), (40, 100, 5), (100, 150, 1), (150, 200, 5), (200, 300, 0), (300, 360, 4)]])
    assert genome.genes(gold, 360).tolist() == [[(0, 40, 0), (40, 200, 1), (200, 300, 0), (300, 360, 2)]]
    predicted = Segments.from_list([[(0, 60, 0), (60, 200, 5), (200, 300, 0), (300, 360, 1)]])
    found = genome.scores(gold, predicted, 360)
    assert found["nucleotide F1"] == pytest.approx(2 * 140 / (220 + 200))
    assert found["coding F1"] == pytest.approx(2 * 90 / (110 + 140))
    assert found["gene F1"] == pytest.approx(2 * 1 / 4)
    assert found["exact gene F1"] == 0
    assert found["boundary F1"] == pytest.approx(2 * 3 / (5 + 3))


@pytest.mark.skipif(not GENBANK.is_file(), reason="needs a GenBank file, which lies outside the repository")
def test_a_real_genome_is_read_with_both_strands():
    whole = genome.read(GENBANK)
    assert len(whole.bases) == whole.row[-1][1] == 154478
    assert {c for _, _, c in whole.row} == set(range(7))
    assert max(e - s for s, e, c in whole.row if c) == 6885


# ------------------------------------------------------------------------------------------------------ the time series
def test_simulated_regimes_last_as_long_as_they_should_and_differ():
    batch = timeseries.simulate(20, 300, torch.Generator().manual_seed(0))
    assert batch.inputs.shape == (20, 300, 1)
    for row in batch.gold.tolist():
        assert row[-1][1] == 300
        assert all(end - start >= timeseries.SHORTEST[label] for start, end, label in row[:-1])
        assert all(a[2] != b[2] for a, b in pairwise(row))
    labels, values = batch.gold.to_labels(300), batch.inputs[..., 0]
    spread = [values[labels == c].std().item() for c in range(4)]
    assert spread[2] > spread[0] + 0.3
    assert values[labels == 1].mean() > values[labels == 0].mean() + 0.4


@pytest.mark.parametrize("cost", ["mean", "meanvar"])
def test_segment_likelihood_is_that_of_a_normal_distribution(cost):
    values = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
    table = timeseries.segment_likelihood(values, 6, penalty=0.5, cost=cost)[..., 0]
    for start in range(12):
        for k in range(2, min(6, 12 - start) + 1):
            own = values[start : start + k]
            variance = own.var(0, correction=0).clamp(min=1e-2) if cost == "meanvar" else torch.ones(2).double()
            expected = torch.distributions.Normal(own.mean(0), variance.sqrt()).log_prob(own).sum() - 0.5
            torch.testing.assert_close(table[start, k - 1], expected)


@pytest.mark.parametrize("seed", range(4))
def test_change_points_are_those_of_ruptures(seed):
    """With a cost of squares the best segmentation under a penalty is PELT's."""
    ruptures = pytest.importorskip("ruptures", reason="ruptures is in the extra dev")
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(6, generator=generator).mul(2).repeat_interleave(25)
    values = (level + torch.randn(150, generator=generator)).double()[:, None]
    penalty = 6.0
    best = timeseries.change_points(values, 150, penalty).argmax[0].trim()
    pelt = ruptures.Pelt(model="l2", min_size=1, jump=1).fit(values.numpy())
    assert best.end.tolist() == pelt.predict(pen=2 * penalty)


def test_change_points_of_a_file(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    level = torch.tensor([1.0] * 60 + [2.5] * 35 + [0.5] * 55)
    flow, noise = level + 0.1 * torch.randn(150, generator=generator), torch.randn(150, generator=generator)
    rows = [
        f"d{i},{a},{b},{c}"
        for i, (a, b, c) in enumerate(zip(flow.tolist(), noise.tolist(), level.tolist(), strict=True))
    ]
    path = tmp_path / "flow.csv"
    path.write_text("\n".join(["day,flow,noise,level", *rows]))
    saved = run(timeseries, tmp_path, f"--csv {path} --columns flow noise --truth level")
    assert saved["change points"] == [60, 95]
    assert min(saved["probability"]) > 0.5
    assert saved["scores"] == {"boundary F1": 1.0, "covering": 1.0, "hausdorff": 0.0}
    assert "'change points': [60, 95]" in capsys.readouterr().out
    path.write_text("flow\n1\n\n2\n,\n")
    with pytest.raises(InputError, match="line 5: got 2 fields"):
        run(timeseries, tmp_path, f"--csv {path}")
    path.write_text("flow,x\n1,1\n,2\n3,3\n")
    with pytest.raises(InputError, match="row 1: got an empty field"):
        run(timeseries, tmp_path, f"--csv {path}")


def test_scaling_is_by_the_noise_not_by_the_changes():
    generator = torch.Generator().manual_seed(0)
    values = 0.2 * torch.randn(4000, 1, generator=generator) + 50 * (torch.arange(4000) >= 2000)[:, None]
    assert timeseries.scaled(values)[:2000].std().item() == pytest.approx(1, abs=0.05)
    assert timeseries.scaled(torch.zeros(5, 1)).isfinite().all()
