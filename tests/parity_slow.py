"""The release's transformer and rounds from their description, slow and obvious, in float64.

`check` shows on the release's own fixtures that it computes the same; `write_variant` then makes a folder of
fixtures at other sizes, which the parity command must take as well.
"""

import hashlib
import json
import math
import shutil
from pathlib import Path

import torch
from diffusers import UniPCMultistepScheduler
from safetensors.torch import save_file
from torch.nn import functional as F

from parity.fixtures import Fixtures

DIT = {
    "dim": 48, "in_dim": 6, "ffn_dim": 80, "out_dim": 6, "text_dim": 16, "freq_dim": 24, "eps": 1e-6,
    "patch_size": [1, 2, 2], "num_heads": 2, "num_layers": 4,
}  # fmt: skip
VACE = {"vace_layers": [1, 3], "vace_in_dim": 12}


class SlowModel:
    """The release's transformer; `weights` under the release's names."""

    def __init__(self, weights, main, control):
        self.w = {name: tensor.double() for name, tensor in weights.items()}
        self.main, self.layers = main, list(control["vace_layers"])
        self.head_dim = main["dim"] // main["num_heads"]

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def patches(self, name, video):
        """Tokens [frames, rows * columns, dim] of a latent video [C, F, h, w], cut into patches of 2x2."""
        weight, bias = self.w[f"{name}.weight"][:, :, 0], self.w[f"{name}.bias"]
        frames = [
            F.conv2d(video[:, f][None].double(), weight, bias, stride=2)[0] for f in range(video.shape[1])
        ]
        return torch.stack([frame.flatten(1).T for frame in frames])

    def sinusoid(self, t):
        half = self.main["freq_dim"] // 2
        angles = [float(t) * 10000 ** (-i / half) for i in range(half)]
        return torch.tensor(
            [math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=torch.float64
        )

    def angles(self, num_ref, frames, rows, columns):
        """Rotation of every pair of every token [tokens, head_dim / 2]."""
        side = 2 * (self.head_dim // 6)
        places = [
            (f - num_ref, rows + y, x) for f in range(num_ref) for y in range(rows) for x in range(columns)
        ]
        places += [(f, y, x) for f in range(frames) for y in range(rows) for x in range(columns)]
        found = []
        for place in places:
            row = []
            for position, dim in zip(place, (self.head_dim - 2 * side, side, side), strict=True):
                row += [position * 10000 ** (-2 * i / dim) for i in range(dim // 2)]
            found.append(row)
        return torch.tensor(found, dtype=torch.float64)

    def rms(self, name, x):
        return x / (x.square().mean(-1, keepdim=True) + self.main["eps"]).sqrt() * self.w[f"{name}.weight"]

    def attention(self, name, x, context, turn=None):
        q = self.rms(f"{name}.norm_q", self.linear(f"{name}.q", x))
        k = self.rms(f"{name}.norm_k", self.linear(f"{name}.k", context))
        q, k, v = (
            y.unflatten(-1, (self.main["num_heads"], -1)).transpose(0, 1)
            for y in (q, k, self.linear(f"{name}.v", context))
        )
        if turn is not None:
            rotation = torch.polar(torch.ones_like(turn), turn)
            q, k = (
                torch.view_as_real(
                    torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous()) * rotation
                ).flatten(-2)
                for y in (q, k)
            )
        scores = (q @ k.transpose(-1, -2) / self.head_dim**0.5).softmax(-1)
        return self.linear(f"{name}.o", (scores @ v).transpose(0, 1).flatten(1))

    def norm(self, x, *affine):
        return F.layer_norm(x, x.shape[-1:], *affine, eps=self.main["eps"])

    def block(self, name, x, modulation, context, turn):
        e = (self.w[f"{name}.modulation"] + modulation).unbind(1)
        y = self.norm(x) * (1 + e[1]) + e[0]
        x = x + e[2] * self.attention(f"{name}.self_attn", y, y, turn)
        y = self.norm(x, self.w[f"{name}.norm3.weight"], self.w[f"{name}.norm3.bias"])
        x = x + self.attention(f"{name}.cross_attn", y, context)
        y = self.norm(x) * (1 + e[4]) + e[3]
        return x + e[5] * self.linear(
            f"{name}.ffn.2", F.gelu(self.linear(f"{name}.ffn.0", y), approximate="tanh")
        )

    def __call__(self, latents, t_frames, context, control=None, num_ref=0, scale=1.0):
        """Velocity [1, C, F, h, w] of latents [1, C, F, h, w]."""
        _, _, frames, height, width = latents.shape
        tokens = self.patches("patch_embedding", latents[0])
        per_frame = tokens.shape[1]
        x = tokens.flatten(0, 1)
        text = self.linear("text_embedding.0", context[0].double())
        text = self.linear("text_embedding.2", F.gelu(text, approximate="tanh"))
        t = torch.stack([self.sinusoid(value) for value in t_frames])
        t = self.linear("time_embedding.2", F.silu(self.linear("time_embedding.0", t)))
        modulation = self.linear("time_projection.1", F.silu(t)).unflatten(-1, (6, -1))
        modulation, t = (y.repeat_interleave(per_frame, 0) for y in (modulation, t))
        turn = self.angles(num_ref, frames - num_ref, height // 2, width // 2)
        first = num_ref * per_frame
        hints = {}
        if control is not None:
            c = self.patches("vace_patch_embedding", control[0]).flatten(0, 1)
            c = self.linear("vace_blocks.0.before_proj", c) + x[first:]
            for index, layer in enumerate(self.layers):
                c = self.block(f"vace_blocks.{index}", c, modulation[first:], text, turn[first:])
                hints[layer] = self.linear(f"vace_blocks.{index}.after_proj", c)
        for index in range(self.main["num_layers"]):
            x = self.block(f"blocks.{index}", x, modulation, text, turn)
            if index in hints:
                x = torch.cat([x[:first], x[first:] + scale * hints[index]])
        e = (self.w["head.modulation"] + t[:, None]).unbind(1)
        x = self.linear("head.head", self.norm(x) * (1 + e[1]) + e[0])
        x = x.view(frames, height // 2, width // 2, 2, 2, -1)
        return x.permute(5, 0, 1, 3, 2, 4).reshape(-1, frames, height, width)[None]


def released_shapes():
    """Names and shapes of the release's tensors at the sizes above."""
    dim, hidden, text, freq = DIT["dim"], DIT["ffn_dim"], DIT["text_dim"], DIT["freq_dim"]
    shapes = {}

    def linear(name, out, into):
        shapes.update({f"{name}.weight": (out, into), f"{name}.bias": (out,)})

    shapes |= {"patch_embedding.weight": (dim, DIT["in_dim"], 1, 2, 2), "patch_embedding.bias": (dim,)}
    shapes |= {
        "vace_patch_embedding.weight": (dim, VACE["vace_in_dim"], 1, 2, 2),
        "vace_patch_embedding.bias": (dim,),
    }
    for name, into in (("text", text), ("time", freq)):
        linear(f"{name}_embedding.0", dim, into)
        linear(f"{name}_embedding.2", dim, dim)
    linear("time_projection.1", 6 * dim, dim)
    linear("head.head", 4 * DIT["out_dim"], dim)
    shapes["head.modulation"] = (1, 2, dim)
    linear("vace_blocks.0.before_proj", dim, dim)
    control = [f"vace_blocks.{i}" for i in range(len(VACE["vace_layers"]))]
    for block in [f"blocks.{i}" for i in range(DIT["num_layers"])] + control:
        shapes[f"{block}.modulation"] = (1, 6, dim)
        for part in ("self_attn", "cross_attn"):
            for layer in "qkvo":
                linear(f"{block}.{part}.{layer}", dim, dim)
            shapes |= {f"{block}.{part}.norm_{which}.weight": (dim,) for which in "qk"}
        shapes |= {f"{block}.norm3.weight": (dim,), f"{block}.norm3.bias": (dim,)}
        linear(f"{block}.ffn.0", hidden, dim)
        linear(f"{block}.ffn.2", dim, hidden)
        if block in control:
            linear(f"{block}.after_proj", dim, dim)
    return shapes


def write_variant(source: Path, folder: Path):
    """A folder of fixtures whose transformer, clips and rounds have other sizes than those in `source`."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(7)

    def normal(*shape, scale=1.0):
        return scale * torch.randn(shape, generator=generator)

    weights = {
        name: normal(*shape, scale=0.5 / math.sqrt(shape[-1]) if len(shape) > 1 else 0.2) + ("norm" in name)
        for name, shape in released_shapes().items()
    }
    model = SlowModel(weights, DIT, VACE)
    adapter = {}
    for layer in ("blocks.0.self_attn.q", "blocks.3.ffn.2"):
        out, into = weights[f"{layer}.weight"].shape
        adapter[f"{layer}.lora_A"], adapter[f"{layer}.lora_B"] = (
            normal(3, into, scale=0.1),
            normal(out, 3, scale=0.3),
        )
    changed = {
        f"{n[:-7]}.weight": weights[f"{n[:-7]}.weight"] + adapter[f"{n[:-7]}.lora_B"] @ adapter[n]
        for n in adapter
        if n.endswith("lora_A")
    }
    with_lora = SlowModel({**weights, **changed}, DIT, VACE)

    def write(name, tensors, config):
        kept = {key: value.contiguous() for key, value in tensors.items()}
        save_file(kept, folder / f"{name}.safetensors", metadata={"config": json.dumps(config)})

    control_names = {name for name in weights if name.startswith("vace_")}
    write("dit_weights", {n: t for n, t in weights.items() if n not in control_names}, DIT)
    write("vace_weights", {n: weights[n] for n in control_names}, VACE)
    _write_forwards(write, normal, model, with_lora)
    layers = {f"lora/pipe.dit.{n}.default.weight": t for n, t in adapter.items()}
    _write_lora(write, folder, layers, changed, with_lora)
    _write_tables(write, model)
    for name in ("d_unipc", "e_retrieval", "f_vae_io", "f_vae_weights", "i_render_oracle"):
        shutil.copy(source / f"{name}.safetensors", folder)
    _write_rounds(write, normal, Fixtures(source).autoencoder, (model, with_lora))
    hashes = {
        p.name: {"sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in folder.glob("*.safetensors")
    }
    (folder / "MANIFEST.json").write_text(json.dumps(hashes))
    return folder


def _write_tables(write, model):
    for name, head_dim in (("rope_128", 128), ("rope_tiny", model.head_dim)):
        sized = SlowModel({}, {"dim": head_dim, "num_heads": 1}, VACE)
        angle = sized.angles(3, 2, 5, 3)
        layout = {"head_dim": head_dim, "num_ref": 3, "f": 2, "h": 5, "w": 3}
        write(name, {"angle_cos": angle.cos(), "angle_sin": angle.sin()}, layout)
    t = torch.tensor([0.0, 3, 412, 999])
    write("time_sinusoid", {"t": t, "emb": torch.stack([model.sinusoid(v) for v in t]).float()}, {})


def _write_forwards(write, normal, model, with_lora):
    latents, text = normal(1, 6, 3, 6, 10), normal(1, 5, DIT["text_dim"])
    t = torch.tensor([640.0])
    out = model(latents, t.expand(3), text)
    write("a_dit_forward", {"latents": latents, "timestep": t, "context": text, "out": out.float()}, {})
    latents, control = normal(1, 6, 7, 6, 10), normal(1, 12, 4, 6, 10)
    t_frames = torch.tensor([0.0] * 5 + [777, 777])
    case = {"latents": latents, "timestep_per_frame": t_frames, "vace_context": control, "context": text}
    for scale in (1.0, 0.3):
        case[f"out_scale_{scale}"] = model(latents, t_frames, text, control, 3, scale).float()
    case["out_novace"] = model(latents, t_frames, text, None, 3).float()
    case["out_noref"] = model(latents[:, :, 3:], t_frames[3:], text, control).float()
    write("b_dit_vace_ref_hist", case, {"num_ref": 3})
    case["out_merged_b"] = with_lora(latents, t_frames, text, control, 3).float()
    with_lora.out_merged_b = case["out_merged_b"]
    first = {
        "latents": latents[:, :, :4],
        "timestep": torch.tensor([333.0]),
        "vace_context": control,
        "context": text,
    }
    out = model(first["latents"], torch.tensor([0.0, 333, 333, 333]), text, control)
    write("c_first_round", {**first, "out": out.float()}, {"num_ref": 0})


def _write_lora(write, folder, layers, changed, with_lora):
    merged = {f"merged/{name}": tensor for name, tensor in changed.items()}
    write("g_lora", {**layers, **merged, "out_merged_b": with_lora.out_merged_b}, {"rank": 3})


def _write_rounds(write, normal, autoencoder, models):
    """Two rounds of 9 and of 5 + 4 frames at 32x96, three steps, with three references in the second."""
    height, width, frames, steps, guidance, seed = 32, 96, (9, 9), 3, 2.5, 11

    def pixels(*shape):
        return (normal(*shape, 3) * 60 + 128).clamp(0, 255).to(torch.uint8)

    def floats(video):
        return (video.permute(3, 0, 1, 2)[None].float() / 127.5) - 1

    given = {
        "first_image": pixels(height, width),
        "refs_1": pixels(3, height, width),
        "hist_1": pixels(5, height, width),
    }
    given |= {"emb_pos": normal(1, 5, DIT["text_dim"]), "emb_neg": normal(1, 5, DIT["text_dim"])}
    expected = {}
    for index, (model, count) in enumerate(zip(models, frames, strict=True)):
        render, score = pixels(count, height, width), pixels(count, height, width)
        given |= {f"control_{index}": render, f"score_{index}": score}
        control = torch.cat(
            [autoencoder.encode(floats(render)), autoencoder.encode(score.permute(3, 0, 1, 2)[None] / 255.0)],
            1,
        )
        past = autoencoder.encode(floats(given["hist_1"] if index else given["first_image"][None]))
        alone = [autoencoder.encode(floats(picture[None])) for picture in given["refs_1"]] if index else []
        references = torch.cat(alone, 2) if index else past[:, :, :0]
        noise = torch.randn(
            1,
            6,
            (count - 1) // 4 + 1,
            height // 16,
            width // 16,
            generator=torch.Generator().manual_seed(seed),
        )
        expected[f"noise_{index}"] = noise
        sampler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
        )
        sampler.set_timesteps(sigmas=torch.linspace(0.9990000128746033, 0, steps + 1)[:-1].double().numpy())
        free, fixed = noise[:, :, past.shape[2] :], torch.cat([references, past], 2)
        for t in sampler.timesteps:
            times = [0.0] * fixed.shape[2] + [float(t)] * free.shape[2]
            video = torch.cat([fixed, free], 2)
            positive, negative = (
                model(video, times, given[name], control, references.shape[2])[:, :, fixed.shape[2] :]
                for name in ("emb_pos", "emb_neg")
            )
            free = sampler.step(
                (negative + guidance * (positive - negative)).float(), t, free, return_dict=False
            )[0]
        latents = torch.cat([past, free], 2)
        expected[f"latents_{index}"] = latents
        film = autoencoder.decode(latents)[0].permute(1, 2, 3, 0)
        expected[f"video_{index}"] = ((film + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    whole = torch.cat([expected["latents_0"], expected["latents_1"][:, :, 2:]], 2)
    expected["final_video"] = autoencoder.decode(whole).half()
    write("h_e2e_inputs", given, {"steps": steps, "cfg": guidance, "seed": seed})
    write("h_e2e_outputs", expected, {})
