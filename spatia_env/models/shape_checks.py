"""What fits together: sizes of a transformer, and what it is given."""

from typing import Any

from torch import Tensor

from spatia_env.errors import ActionError, CheckpointError


def check_shapes(
    config: Any,
    latents: Tensor,
    timestep: Tensor,
    control: Tensor | None,
    num_ref: int,
    mask: Tensor | None,
    places: Tensor | None,
) -> None:
    """Raise `ActionError` unless what a transformer of `config` is given belongs together; see its `forward`."""
    _, patch_h, patch_w = config.patch_size
    if latents.ndim != 5 or latents.shape[1] != config.in_channels:
        raise ActionError(f"latents: expected [B, {config.in_channels}, F, h, w], got {list(latents.shape)}.")
    batch, _, frames, height, width = latents.shape
    if height % patch_h or width % patch_w:
        raise ActionError(f"latents: {height}x{width} is not a multiple of the patch {patch_h}x{patch_w}.")
    if max(frames, height // patch_h, width // patch_w) > config.rope_max_seq_len:
        raise ActionError(f"latents: {list(latents.shape)} is larger than {config.rope_max_seq_len} patches.")
    if not 0 <= num_ref < frames:
        raise ActionError(f"num_ref_frames: is {num_ref}; give 0 to {frames - 1} for {frames} latent frames.")
    if tuple(timestep.shape) not in ((), (1,), (batch,), (1, frames), (batch, frames)):
        raise ActionError(
            f"timestep: expected [B] or [B, F] for {batch}, {frames}, got {list(timestep.shape)}."
        )
    if control is not None:
        expected = (batch, config.control_in_channels, frames - num_ref, height, width)
        if tuple(control.shape) != expected:
            raise ActionError(f"control latents: expected {list(expected)}, got {list(control.shape)}.")
    if config.place_channels:
        expected = (batch, config.place_channels, frames - num_ref, height, width)
        if places is None or tuple(places.shape) != expected:
            got = "nothing" if places is None else list(places.shape)
            raise ActionError(
                f"place_hidden_states: this model needs {list(expected)} (`places.place_planes`), got {got}."
            )
    if mask is not None and tuple(mask.shape) != (batch, num_ref):
        raise ActionError(f"reference_mask: expected {[batch, num_ref]}, got {list(mask.shape)}.")


def check_sizes(
    patch_size: tuple[int, int, int],
    head_dim: int,
    num_layers: int,
    control_layers: tuple[int, ...],
    control_at_input: bool,
) -> None:
    """Raise `CheckpointError` unless a transformer can be made of these sizes; see `SpatiaTransformer3DModel`."""
    if len(patch_size) != 3 or patch_size[0] != 1:
        raise CheckpointError(
            f"patch_size: is {tuple(patch_size)}; references are single frames, so use (1, h, w)."
        )
    if head_dim % 2 or (head_dim // 3) % 2:
        raise CheckpointError(
            f"attention_head_dim: {head_dim} cannot be split into time, height and width; "
            "use 8, 12, 20, 24, 32, 64 or 128."
        )
    outside = any(not 0 <= layer < num_layers for layer in control_layers)
    if outside or len(set(control_layers)) < len(control_layers):
        raise CheckpointError(
            f"control_layers: {tuple(control_layers)} are not distinct blocks below {num_layers}."
        )
    if control_at_input and not control_layers:
        raise CheckpointError("control_at_input: needs a control branch; name its blocks in control_layers.")
