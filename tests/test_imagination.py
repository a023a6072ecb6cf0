"""The imagination: definite, repeatable, different for every seed, and true to what is known."""

import pytest
import torch

from spatia_env.errors import ActionError
from spatia_env.models.imagination import ImaginationModel, integrate, pack_known, shrink_known
from spatia_env.models.panorama_networks import (
    LayoutNetwork,
    decode_colour,
    decode_distance,
    encode_colour,
    encode_distance,
    enlarge,
)

SIZE = (48, 192)


@pytest.fixture(scope="module")
def model() -> ImaginationModel:
    torch.manual_seed(0)
    model = ImaginationModel(
        layout_widths=(16, 16, 32),
        layout_blocks=(1, 1, 2),
        detail_widths=(16, 24),
        detail_blocks=(1, 1),
        height=48,
    )
    for parameter in model.parameters():  # fresh blocks are silent
        torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def known_part(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(batch, 3, *SIZE, generator=generator)
    distance = 1 + 4 * torch.rand(batch, *SIZE, generator=generator)
    mask = torch.zeros(batch, *SIZE, dtype=torch.bool)
    mask[:, 10:40, 50:90] = True
    return rgb * mask[:, None], distance * mask, mask


def test_codes_invert() -> None:
    distance, rgb = torch.tensor([0.3, 2.5, 9.0]), torch.tensor([0.0, 0.25, 1.0])
    assert torch.allclose(decode_distance(encode_distance(distance)), distance)
    assert torch.allclose(decode_colour(encode_colour(rgb)), rgb)


def test_known_pixels_stay_and_the_rest_is_drawn_by_the_seed(model: ImaginationModel) -> None:
    rgb, distance, mask = known_part()

    def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return model.complete(rgb, distance, mask, torch.Generator().manual_seed(seed), 4, 2)

    first, first_distance = draw(0)
    again, again_distance = draw(0)
    other, other_distance = draw(1)
    assert torch.equal(first, again) and torch.equal(first_distance, again_distance)
    assert first.shape == (2, 3, *SIZE) and first_distance.shape == (2, *SIZE)
    assert torch.equal(first.movedim(1, -1)[mask], rgb.movedim(1, -1)[mask])
    assert torch.equal(first_distance[mask], distance[mask])
    assert (first - other).abs().movedim(1, -1)[~mask].mean() > 1e-4
    assert (first_distance / other_distance).log().abs()[~mask].mean() > 1e-4
    assert first.min() >= 0 and first.max() <= 1 and first_distance.min() > 0


def test_guidance_leads_by_what_is_known(model: ImaginationModel) -> None:
    known = shrink_known(pack_known(*known_part(1)))

    def draw(known: torch.Tensor, guidance: float) -> torch.Tensor:
        with torch.no_grad():
            return model.draw_layout(known, torch.Generator().manual_seed(0), 3, guidance)

    assert not torch.equal(draw(known, 1.0), draw(known, 3.0))
    nothing = torch.zeros_like(known)
    assert torch.allclose(draw(nothing, 1.0), draw(nothing, 3.0), atol=1e-5)


@pytest.mark.parametrize("steps", [0, 2])
def test_all_known_or_nothing_known(model: ImaginationModel, steps: int) -> None:
    rgb, distance, mask = known_part()
    full = torch.ones_like(mask)
    same, _ = model.complete(rgb, distance + 1, full, torch.Generator().manual_seed(0), 1, steps)
    assert torch.equal(same, rgb)
    drawn, far = model.complete(
        rgb, distance, torch.zeros_like(mask), torch.Generator().manual_seed(0), 2, steps
    )
    assert torch.isfinite(drawn).all() and torch.isfinite(far).all()


def test_a_turned_view_gives_a_turned_panorama(model: ImaginationModel) -> None:
    rgb, distance, mask = known_part(1)
    known = shrink_known(pack_known(rgb, distance, mask))
    noisy = torch.randn(1, 7, 8, 32, generator=torch.Generator().manual_seed(3))
    time = torch.tensor([0.3])
    with torch.no_grad():
        straight = model.layout(noisy, time, known)
        turned = model.layout(noisy.roll(16, -1), time, known.roll(16, -1))
        full = pack_known(rgb, distance, mask)
        detail = model.detail(full[:, :3], time, full, straight, full)
        around = model.detail(
            full[:, :3].roll(48, -1), time, full.roll(48, -1), straight.roll(8, -1), full.roll(48, -1)
        )
    assert torch.allclose(straight.roll(16, -1), turned, atol=1e-4)
    assert torch.allclose(detail.roll(48, -1), around, atol=1e-4)


def test_integrate_ends_at_what_is_predicted() -> None:
    image = torch.rand(2, 3, 4, 5)
    times = []

    def clean(noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        times.append(float(time[0]))
        return image

    assert torch.allclose(integrate(clean, torch.randn(2, 3, 4, 5), 4), image)
    assert times == [0.0, 0.25, 0.5, 0.75]


def test_known_layout_is_the_mean_of_known_pixels() -> None:
    rgb, distance, mask = (
        torch.full((1, 3, 12, 24), 0.2),
        torch.full((1, 12, 24), 3.0),
        torch.zeros(1, 12, 24),
    )
    mask[:, :, :4] = 1  # two thirds of the first column of cells
    mask[:, :, 12:14] = 1  # a third of another
    small = shrink_known(pack_known(rgb, distance, mask > 0))
    assert small.shape == (1, 5, 2, 4)
    assert small[0, 4, 0].tolist() == [1, 0, 0, 0]
    assert torch.allclose(decode_colour(small[0, :3, 0, 0]), torch.tensor(0.2), atol=1e-4)
    assert torch.allclose(decode_distance(small[0, 3, 0, 0]), torch.tensor(3.0), rtol=1e-3)


def test_enlarged_layouts_go_around() -> None:
    layout = torch.rand(1, 2, 4, 8)
    assert torch.allclose(enlarge(layout).roll(12, -1), enlarge(layout.roll(2, -1)))
    assert enlarge(layout).shape == (1, 2, 24, 48)


def test_other_sizes_are_refused(model: ImaginationModel) -> None:
    rgb, distance, mask = known_part()
    generator = torch.Generator()
    with pytest.raises(ActionError, match="48 rows"):
        model.complete(rgb[..., :96], distance[..., :96], mask[..., :96], generator)
    with pytest.raises(ActionError, match="num_steps"):
        model.complete(rgb, distance, mask, generator, 0)


def test_gradients_reach_every_weight_of_the_layout() -> None:
    torch.manual_seed(0)
    network = LayoutNetwork((16, 16, 32), (1, 1, 2), height=16, width=64)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    network(torch.randn(2, 7, 16, 64), torch.rand(2), torch.rand(2, 5, 16, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
