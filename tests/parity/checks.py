"""What `parity` runs: each function recomputes one fixture and says how far it is from the release's."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spatia_env.models.blocks import SinusoidalTime, rope_table
from spatia_env.models.transformer import SpatiaTransformer3DModel
from spatia_env.models.wan.convert_layouts import transformer_name
from spatia_env.models.wan.sampling import to_uint8
from spatia_env.models.wan.schedulers import release_unipc
from spatia_env.release.renderer import render_discs
from spatia_env.release.retrieval import Precision, match_references, overlap_counts, visible_mask

from .fixtures import Fixtures, merge_lora, worst


@dataclass(frozen=True)
class Measured:
    """The largest `error` of a check, and a `detail` in words."""

    error: float
    detail: str


def rope(fixtures: Fixtures) -> Measured:
    """Rotary tables of reference and video tokens, at the official head size and at a small one."""
    errors = []
    for name in ("rope_128", "rope_tiny"):
        layout, expected = fixtures.config(name), fixtures.tensors(name)
        table = rope_table(layout["head_dim"], layout["num_ref"], layout["f"], layout["h"], layout["w"])
        errors += [worst(table[..., 0], expected["angle_cos"]), worst(table[..., 1], expected["angle_sin"])]
    return Measured(max(errors), "reference frames at negative times, one grid height lower")


def time_sinusoid(fixtures: Fixtures) -> Measured:
    """The sinusoid of the timestep."""
    expected = fixtures.tensors("time_sinusoid")
    timestep, embedding = (next(t for t in expected.values() if t.ndim == n) for n in (1, 2))
    return Measured(worst(SinusoidalTime(embedding.shape[1])(timestep), embedding), "angles in float64")


def plain_forward(fixtures: Fixtures) -> Measured:
    """A forward pass without references and control, one timestep for all."""
    case = fixtures.tensors("a_dit_forward")
    out = fixtures.transformer(case["latents"], case["timestep"], case["context"], return_dict=False)[0]
    return Measured(worst(out, case["out"]), f"outputs up to {case['out'].abs().max():.1f}")


def full_forward(fixtures: Fixtures) -> Measured:
    """Forward passes with references, history and control, and with each of them left out."""
    case, count = fixtures.tensors("b_dit_vace_ref_hist"), fixtures.config("b_dit_vace_ref_hist")["num_ref"]
    errors = {}
    for name in sorted(key for key in case if key.startswith("out_scale_")):
        scale = float(name.removeprefix("out_scale_"))
        errors[f"scale {scale:g}"] = worst(_forward(fixtures.transformer, case, count, scale), case[name])
    errors["no control"] = worst(_forward(fixtures.transformer, case, count, None), case["out_novace"])
    without = {
        **case,
        "latents": case["latents"][:, :, count:],
        "timestep_per_frame": case["timestep_per_frame"][count:],
    }
    errors["no references"] = worst(_forward(fixtures.transformer, without, 0, 1.0), case["out_noref"])
    return Measured(max(errors.values()), ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))


def first_round(fixtures: Fixtures) -> Measured:
    """The first round: the first latent frame is given, there are no references."""
    case = fixtures.tensors("c_first_round")
    timestep = case["timestep"].expand(1, case["latents"].shape[2]).clone()
    timestep[:, 0] = 0
    out = _forward(fixtures.transformer, {**case, "timestep_per_frame": timestep[0]}, 0, 1.0)
    return Measured(worst(out, case["out"]), "first latent frame at timestep 0")


def unipc(fixtures: Fixtures) -> Measured:
    """Sigmas, integer timesteps and whole trajectories of the sampler, all as absolute differences."""
    case, shift = fixtures.tensors("d_unipc"), fixtures.config("d_unipc")["shift"]
    errors, states = [], []
    counts = sorted(int(name.removeprefix("sigmas_")) for name in case if name.startswith("sigmas_"))
    for count in counts:
        scheduler = release_unipc(count, shift)
        errors.append(worst(scheduler.sigmas, case[f"sigmas_{count}"]))
        errors.append(float((scheduler.timesteps != case[f"timesteps_{count}"]).sum()))
        if f"traj_{count}" in case:
            expected = case[f"traj_{count}"]
            errors.append(worst(_toy_trajectory(case, count, shift)[-len(expected) :], expected))
            states.append(f"{count} steps {errors[-1]:.1e} of {expected.abs().max():.0f}")
    return Measured(max(errors), f"{counts} steps; states {', '.join(states)}")


def retrieval(fixtures: Fixtures) -> Measured:
    """Visible masks, shared counts in both precisions and the matches; the error counts what differs."""
    case, size = fixtures.tensors("e_retrieval"), fixtures.config("e_retrieval")
    K = _matrix(*case["K_px"].tolist())
    new = visible_mask(case["points"][:, :3], case["new_w2c"], K, size["H"], size["W"])
    past = visible_mask(case["points"][:, :3], case["hist_w2c"], K, size["H"], size["W"])
    wrong = (new != case["new_mask"].bool()).sum() + (past != case["hist_mask"].bool()).sum()
    crafted = case["craft_B"].bool(), case["craft_A"].bool()
    precisions: tuple[tuple[Precision, str], ...] = (("float32", "f32"), ("bfloat16", "bf16"))
    for precision, short in precisions:
        counts = overlap_counts(new, past, precision)
        wrong += (counts != case[f"inter_{short}"]).sum()
        for counted, expected in (
            (counts, case[f"match_hungarian_{short}"]),
            (overlap_counts(*crafted, precision), case[f"craft_match_{short}"]),
        ):
            wrong += (torch.tensor(match_references(counted)) != expected).sum()
    return Measured(
        float(wrong), f"{new.numel() + past.numel()} visibilities, counts in f32 and bf16, matches"
    )


def autoencoder(fixtures: Fixtures) -> Measured:
    """Encoding of a video and of single pictures, and decoding."""
    case, model = fixtures.tensors("f_vae_io"), fixtures.autoencoder
    errors = {
        "video": worst(model.encode(case["video"]), case["z_video"]),
        "pictures": worst(model.encode(case["images"]), case["z_images"]),
        "references": worst(
            model.encode_images(case["images"].squeeze(2)[None].transpose(1, 2)), case["ref_z"]
        ),
    }
    last = case["decoded_raw_last"].clamp(-1, 1)
    decoded = model.decode(case["z_video"])
    errors["decoded"] = worst(decoded[:, :, -last.shape[2] :], last)
    # The whole video is stored in float16, so it can only be as close as that rounds.
    half = worst(decoded, case["decoded"].float())
    detail = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    return Measured(max(errors.values()) if half < 1e-3 else half, f"{detail}; all frames in f16 {half:.1e}")


def lora(fixtures: Fixtures) -> Measured:
    """The adapter merged into the weights, and a forward pass with it."""
    case = fixtures.tensors("g_lora")
    expected = {
        transformer_name(name[7:]): tensor for name, tensor in case.items() if name.startswith("merged/")
    }
    merged = merge_lora(fixtures.weights, fixtures.lora)
    changed = {name for name in merged if merged[name] is not fixtures.weights[name]}
    if changed != expected.keys():
        return Measured(float("inf"), f"changes {sorted(changed ^ expected.keys())[:3]} differ")
    weights = max(worst(merged[name], tensor) for name, tensor in expected.items())
    inputs, count = fixtures.tensors("b_dit_vace_ref_hist"), fixtures.config("b_dit_vace_ref_hist")["num_ref"]
    forward = worst(_forward(fixtures.transformer_with_lora, inputs, count, 1.0), case["out_merged_b"])
    return Measured(max(weights, forward), f"{len(expected)} layers, merged weights {weights:.1e}")


def end_to_end_latents(fixtures: Fixtures) -> Measured:
    """Two whole rounds: encoding, guidance, sampling; the second with LoRA, references and history."""
    first, second, noise = fixtures.clips
    expected = fixtures.tensors("h_e2e_outputs")
    errors = [worst(clip.latents, expected[f"latents_{i}"]) for i, clip in enumerate((first, second))]
    return Measured(max(*errors, noise), f"rounds {errors[0]:.1e} and {errors[1]:.1e}, noise {noise:.1e}")


def end_to_end_pixels(fixtures: Fixtures) -> Measured:
    """Share of 8-bit values that differ at all; a difference beyond 1 is a failure whatever the share."""
    expected = fixtures.tensors("h_e2e_outputs")
    first, second, _ = fixtures.clips
    off = []
    for index, clip in enumerate((first, second)):
        pixels = to_uint8(clip.frames)[0].permute(1, 2, 3, 0)
        off.append((pixels.int() - expected[f"video_{index}"].int()).abs().flatten())
    given = fixtures.tensors("h_e2e_inputs")["hist_1"].shape[0]
    kept = second.latents[:, :, (given - 1) // fixtures.autoencoder.temporal_stride + 1 :]
    final = fixtures.autoencoder.decode(torch.cat([first.latents, kept], dim=2))
    half = worst(final, expected["final_video"].float())
    largest, share = int(torch.cat(off).max()), float((torch.cat(off) > 0).float().mean())
    detail = f"share of values off by {largest}; one decode of all rounds, in f16, {half:.1e}"
    return Measured(share if largest <= 1 and half < 1e-3 else float("inf"), detail)


def renderer(fixtures: Fixtures) -> Measured:
    """Share of pixels off by more than 1 of 255 under the release's projection and compositing."""
    case, sizes, off = fixtures.tensors("i_render_oracle"), fixtures.config("i_render_oracle"), []
    for name, size in ((key, value) for key, value in sizes.items() if isinstance(value, dict)):
        height, width = size["H"], size["W"]
        fx, fy, cx, cy = case[f"{name}_K_norm"].tolist()
        rgb, coverage = render_discs(
            case[f"{name}_points"],
            case[f"{name}_colors"],
            case[f"{name}_w2c"],
            _matrix(fx * width, fy * height, cx * width, cy * height),
            height,
            width,
            radius=size["radius_ndc"],
            points_per_pixel=size["points_per_pixel"],
            projection="release",
        )
        found = torch.cat([rgb.permute(0, 2, 3, 1), coverage[..., None]], dim=-1)
        expected = torch.cat([case[f"{name}_rgb_u8"], case[f"{name}_score_u8"][..., None]], dim=-1)
        off.append((((found * 255).byte().int() - expected.int()).abs() > 1).any(-1).flatten())
    return Measured(float(torch.cat(off).float().mean()), "share of pixels off by more than 1 of 255")


def _toy_trajectory(case: dict[str, Tensor], count: int, shift: float) -> Tensor:
    """States [count, ...] of the sampler under the fixture's velocity A x + b sin(t / 1000).

    The velocity is no part of the sampler, and its rounding is amplified like the sampler's own. So it is computed in
    the one order that gives the fixture's numbers, the same on every processor: fused additions in order of the
    columns, and a sine that is rounded once.
    """
    scheduler, x, states = release_unipc(count, shift), case["x_init"], []
    for timestep in scheduler.timesteps.tolist():
        velocity = torch.zeros_like(x)
        for column in range(x.shape[1]):
            weights = case["A"][:, column].double().view(1, -1, 1, 1, 1)
            velocity = (velocity.double() + weights * x[:, column : column + 1].double()).float()
        x = scheduler.step(velocity + case["b"] * math.sin(timestep / 1000), x)
        states.append(x)
    return torch.stack(states)


def _forward(
    model: SpatiaTransformer3DModel, case: dict[str, Tensor], count: int, scale: float | None
) -> Tensor:
    return model(
        case["latents"],
        case["timestep_per_frame"][None],
        case["context"],
        control_hidden_states=None if scale is None else case["vace_context"],
        num_ref_frames=count,
        control_scale=0.0 if scale is None else scale,
        return_dict=False,
    )[0]


def _matrix(fx: float, fy: float, cx: float, cy: float) -> Tensor:
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
