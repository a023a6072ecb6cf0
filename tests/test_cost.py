import dataclasses
import functools
import json

import pytest
import torch

import official_models as tiny
from spatia_env.errors import ActionError
from spatia_env.models.wan import cost_bench, doctor
from spatia_env.models.wan.cost import CLIPS, Clip, Network, _Steps, count_clip, dry_run, time_clip
from spatia_env.models.wan.cost_bench import CostConfig, cost_table, run_cost
from spatia_env.models.wan.doctor import Machine, judge, report_lines

SMALL = Network(
    transformer={k: v for k, v in tiny.FIXTURES.transformer.config.items() if not k.startswith("_")},
    vae={k: v for k, v in tiny.FIXTURES.autoencoder.vae.config.items() if not k.startswith("_")},
)
CLIP = Clip(96, 64, 17, 2)


@functools.lru_cache
def counted(clip, network=None, shortened=False):
    return count_clip(clip, SMALL, shortened=shortened)


@pytest.fixture(autouse=True)
def count_once(monkeypatch):
    """Counting takes a second, and every test of `doctor` asks for the same."""
    monkeypatch.setattr(doctor, "count_clip", lambda clip, network=None, shortened=False: counted(clip))
    monkeypatch.setattr(doctor, "_count_tile", lambda network: 1000)


def test_memory_counts_what_is_alive_at_once():
    x = torch.empty(1000, 1000, device="meta")  # 4 MB each

    def chain():
        a = x + 1
        b = a.view(-1)
        c = b * 2
        del a, b
        return c + 1

    assert dry_run(chain).peak_bytes == 8_000_000
    assert dry_run(lambda: (x + 1).add_(1)).peak_bytes == 4_000_000
    assert dry_run(lambda: x.view(-1)).peak_bytes == 0


def test_operations_match_the_formulas():
    x, w = torch.empty(5, 7, device="meta"), torch.empty(11, 7, device="meta")
    assert dry_run(lambda: torch.nn.functional.linear(x, w)).flops == 2 * 5 * 7 * 11
    q, k = torch.empty(2, 3, 13, 4, device="meta"), torch.empty(2, 3, 17, 4, device="meta")
    said = dry_run(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, k))
    assert said.flops == said.attention == 2 * 2 * 3 * 13 * 17 * (4 + 4)
    assert said.peak_bytes == 4 * 2 * 3 * 13 * 4  # the scores never exist


def test_attention_of_a_clip_by_hand():
    said = counted(CLIP).forward
    refs, frames, per_frame, dim, text = 2, 5, 2 * 3, 60, 512
    all_tokens, clip_tokens = (refs + frames) * per_frame, frames * per_frame
    main = 6 * 4 * dim * all_tokens * (all_tokens + text)
    control = 3 * 4 * dim * clip_tokens * (clip_tokens + text)
    assert said.attention == main + control


def test_a_shortened_count_agrees():
    # Wide enough that, as at full size, the layers and not the copies of the film fill the memory.
    wide = dataclasses.replace(SMALL, vae={**SMALL.vae, "base_dim": 32, "decoder_base_dim": 48})
    long = dataclasses.replace(CLIP, frames=29)
    whole, short = count_clip(long, wide), count_clip(long, wide, shortened=True)
    for name in ("forward", "encode", "decode"):
        assert getattr(short, name).flops == pytest.approx(getattr(whole, name).flops)
        assert getattr(short, name).peak_bytes == pytest.approx(getattr(whole, name).peak_bytes, rel=0.01)


def test_official_forward_pass():
    """The published count of this size: 32 TFLOP, 3 of them in self-attention."""
    transformer, autoencoder = Network().build(torch.device("meta"), torch.bfloat16)
    assert sum(p.numel() for p in transformer.parameters()) == pytest.approx(6.395e9, rel=1e-3)
    steps = _Steps(CLIPS[3], transformer, autoencoder, torch.device("meta"), torch.bfloat16)
    said = dry_run(steps.forward)
    assert said.flops / 1e12 == pytest.approx(32, abs=0.5)
    assert said.attention / 1e12 == pytest.approx(3.55, abs=0.1)


def test_the_bench_writes_figures_and_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(cost_bench, "CLIPS", (CLIP,))
    lines = []
    content = run_cost(CostConfig(out=tmp_path, device="cpu", steps=3), SMALL, lines.append)
    assert json.loads((tmp_path / "results.json").read_text()) == content
    figure = content["figures"]["cost/96x64x17+2/tflop_round"]
    assert set(figure) == {"title", "unit", "value", "ci", "n", "reach", "holds", "command"}
    row = content["rows"][0]
    total = 6 * row["tflop_forward"] + row["tflop_encode"] + row["tflop_decode"]
    assert row["tflop_round"] == pytest.approx(total)
    assert row["seconds_forward"] > 0 and row["seconds_round"] > 6 * row["seconds_forward"]
    assert row["gb_measured"] is None  # only a GPU says what it gave out
    assert "96x64x17+2" in (tmp_path / "table.md").read_text() == cost_table(content)
    assert lines == ["counting 96x64x17+2", "timing 96x64x17+2 on cpu"]


def test_timing_runs_every_part():
    timed = time_clip(CLIP, torch.device("cpu"), SMALL, torch.float32)
    assert timed.keys() == {"seconds_forward", "seconds_encode", "seconds_decode"} and min(timed.values()) > 0


def test_bad_arguments_are_named():
    with pytest.raises(ActionError, match="there are"):
        run_cost(CostConfig(clips=("12x12x12",)))
    with pytest.raises(ActionError, match="device"):
        run_cost(CostConfig(device="moon"))
    if not torch.cuda.is_available():
        with pytest.raises(ActionError, match="no GPU"):
            run_cost(CostConfig(device="cuda"))
    with pytest.raises(ActionError, match="multiples of 32"):
        count_clip(Clip(90, 64, 17), SMALL)
    with pytest.raises(ActionError, match=r"4 \* k \+ 1"):
        count_clip(Clip(96, 64, 18), SMALL)


# -- doctor -----------------------------------------------------------------------------------------------------------


def machine(free, device="cuda"):
    return Machine(device, "a test", free, free, 2, 10**12, 1e12)


def test_doctor_takes_the_first_lever_that_suffices():
    whole = judge(CLIP, machine(10**12), SMALL)
    order = list(whole.needs)
    assert whole.lever == order[0] == "nothing"
    for free in sorted(set(whole.needs.values())):
        verdict = judge(CLIP, machine(free), SMALL)
        assert verdict.lever == next(name for name in order if whole.needs[name] <= free)
    tight = judge(CLIP, machine(1000), SMALL)
    assert tight.lever is None
    assert whole.seconds == pytest.approx(counted(CLIP).round_flops(80) / 1e12)


def test_levers_need_less():
    needs = judge(CLIP, machine(10**12), SMALL).needs
    assert needs["nothing"] >= needs['offload="stages"'] >= needs['offload="stages", float8_weights=True']
    assert needs['offload="groups"'] < needs["nothing"]


def test_on_the_cpu_there_is_nowhere_to_offload_to():
    assert list(judge(CLIP, machine(1, "cpu"), SMALL).needs) == ["nothing"]


def test_the_report_says_what_fits_and_why_not_more():
    report = doctor.doctor(machine(1000), SMALL, (CLIP,))
    text = str(report)
    assert "spatia-tiny: runs" in text and "does not fit: needs" in text and "are free" in text
    report = doctor.doctor(machine(10**12), SMALL, (CLIP,))
    assert "fits in" in str(report) and report.packages.keys() == doctor.OPTIONAL.keys()
    assert len(report_lines(report)) == 8


def test_this_machine_can_be_looked_at():
    here = doctor.look_at_machine()
    assert 0 < here.free <= here.total and here.cores >= 1 and here.flops > 1e8 and here.disk > 0


def test_times_are_readable():
    assert [doctor._time(s) for s in (5, 130, 7300, 200000)] == [
        "5 seconds",
        "2 minutes",
        "2 hours",
        "2 days",
    ]
