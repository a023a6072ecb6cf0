"""A MapAnything of the real class, small and random: for the test where the package is installed, and for recording.

`python tests/mapanything_tiny.py` records what it answers into tests/data/mapanything/recorded.safetensors, which
the other tests replay where the package is missing.
"""

import json
import math
from pathlib import Path

import torch

RECORDED = Path(__file__).parent / "data" / "mapanything" / "recorded.safetensors"
KEYS = ("pts3d", "depth_z", "conf", "mask", "intrinsics")
LONG_SIDE = 48


def config():
    """Arguments of `MapAnything`: the released design with a CroCo encoder, which needs no download."""
    inf = math.inf
    encoder = {
        "encoder_str": "croco", "name": "croco", "data_norm_type": "croco", "patch_embed_cls": "PatchEmbedDust3R",
        "img_size": [64, 64], "patch_size": 16, "enc_embed_dim": 48, "enc_depth": 2, "enc_num_heads": 4,
        "uses_torch_hub": False,
    }  # fmt: skip
    sharing = {
        "model_type": "alternating_attention", "model_return_type": "intermediate_features",
        "custom_positional_encoding": None,
        "module_args": {
            "name": "aat", "indices": [1, 2], "norm_intermediate": True, "depth": 4, "dim": 48, "num_heads": 4,
            "distinguish_ref_and_non_ref_views": True, "gradient_checkpointing": False,
        },
    }  # fmt: skip
    dense = {
        "name": "dense", "ray_directions_mode": "linear", "ray_directions_normalize_to_unit_sphere": True,
        "ray_directions_normalize_to_unit_image_plane": False, "ray_directions_vmin": -inf, "ray_directions_vmax": inf,
        "ray_directions_clamp_min_of_z_dir": False, "ray_directions_z_dir_min": -inf, "depth_mode": "exp",
        "depth_vmin": 0, "depth_vmax": inf, "confidence_type": "exp", "confidence_vmin": 1, "confidence_vmax": inf,
    }  # fmt: skip
    pose = {
        "name": "pose", "cam_trans_mode": "linear", "cam_trans_vmin": -inf, "cam_trans_vmax": inf,
        "quaternions_mode": "linear", "quaternions_normalize": True, "quaternions_vmin": -inf, "quaternions_vmax": inf,
    }  # fmt: skip
    kind = "raydirs+depth+pose+confidence+mask"
    heads = {
        "type": "dpt+pose", "feature_head": {"feature_dim": 16, "hooks": [0, 1, 2, 3], "checkpoint_gradient": False},
        "regressor_head": {"output_dim": 6, "checkpoint_gradient": False},
        "pose_head": {"num_resconv_block": 1, "rot_representation_dim": 4}, "scale_head": {"output_dim": 1},
        "adaptor_type": kind, "dpt_adaptor": dense, "pose_adaptor": pose,
        "scale_adaptor": {"name": "scale", "mode": "exp", "vmin": 1e-8, "vmax": inf}, "gradient_checkpointing": False,
        "adaptor_config": {"input_dim": 6, "scene_rep_dim": 4, "type": kind, "scene_rep_type": "raydirs+depth+pose"},
    }  # fmt: skip

    def part(name, channels, dense_one):
        kinds = (
            {"encoder_str": "dense_rep_encoder", "apply_pe": False}
            if dense_one
            else {"encoder_str": "global_rep_encoder"}
        )
        return {"name": name, "in_chans": channels, **kinds}

    geometry = {
        "overall_prob": 1.0, "dropout_prob": 0.0, "ray_dirs_prob": 1.0, "depth_prob": 1.0, "cam_prob": 1.0,
        "sparse_depth_prob": 0.0, "sparsification_removal_percent": 0.9, "depth_scale_norm_all_prob": 0.0,
        "pose_scale_norm_all_prob": 0.0, "ray_dirs_encoder_config": part("rays", 3, True),
        "depth_encoder_config": part("depth", 1, True), "cam_rot_encoder_config": part("rotation", 4, False),
        "cam_trans_encoder_config": part("translation", 3, False), "scale_encoder_config": part("scale", 1, False),
    }  # fmt: skip
    return {
        "name": "tiny", "encoder_config": encoder, "info_sharing_config": sharing, "pred_head_config": heads,
        "geometric_input_config": geometry,
    }  # fmt: skip


def clip():
    """Frames, poses and intrinsics that are reconstructed."""
    rgb = torch.rand(3, 3, 20, 32, generator=torch.Generator().manual_seed(5))
    c2w = torch.eye(4).repeat(3, 1, 1)
    c2w[1, 0, 3], c2w[2, 2, 3] = 0.2, 0.3
    return rgb, c2w, torch.tensor([[28.0, 0, 16], [0, 28, 10], [0, 0, 1]])


def record():
    """Run the real class and write down what it answered."""
    from mapanything.models.mapanything.model import MapAnything
    from safetensors.torch import save_file

    from spatia_env.slam.mapanything import MapAnythingGeometry

    torch.manual_seed(0)
    model = MapAnything(**config()).eval()
    answers, infer = [], model.infer
    model.infer = lambda views, **options: answers.append((views, infer(views, **options))) or answers[-1][1]
    MapAnythingGeometry(model, long_side=LONG_SIDE, use_amp=False).reconstruct(*clip())
    views, said = answers[0]
    tensors = {f"{i}/{key}": view[key].float().contiguous() for i, view in enumerate(said) for key in KEYS}
    tensors |= {f"{i}/asked/img": view["img"].contiguous() for i, view in enumerate(views)}
    about = {"class": "mapanything.models.MapAnything 1.1 (f7ebafb)", "asked": sorted(views[0])}
    RECORDED.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, RECORDED, metadata={"config": json.dumps(about)})


if __name__ == "__main__":
    record()
