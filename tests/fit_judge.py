"""Fits the shape model of `judge` to simulator clips of training seeds, and checks the judge on dev seeds.

python tests/fit_judge.py --scenes 60            # writes judge.json
python tests/fit_judge.py --check --scenes 20    # recall, near misses, overlays of dev scenes
"""

import argparse
import json
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import ndimage, optimize

from spatia_env.bench import staging
from spatia_env.bench.judge import FEATURES, LOOKS, MODEL_FILE, body_mask, describe, judge_mover, saw_mover
from spatia_env.bench.staging import Acted, act, gentle_path
from spatia_env.sim.scenes import SimScene

SIZE = (128, 128)
QUANTILE = 0.02
"""Share of a shape's own training clips that may fall below its least probability."""
RIDGE = 0.01


def path_of(seed: int, index: int) -> np.ndarray:
    """A gentle camera path from a scene's first pose."""
    with SimScene(seed) as scene:
        return gentle_path(scene.initial_c2w, np.random.default_rng([seed, 5119, index]))


def samples(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """(shape, features) of a training scene's movers, sharp and softened, and of what has no shape."""
    rng = np.random.default_rng([seed, 77])
    for index, (name, look) in enumerate(LOOKS.items()):
        acted = act(seed, (name,), path_of(seed, index), SIZE)
        shown = [
            (look.shape, acted.clip),
            (look.shape, softened(acted.clip)),
            ("flat", staging.rectangles(acted, look.colours)),
        ]
        shown += [("flat", staging.discs(acted, look.colours)), ("blob", blobs(acted, look.colours, rng))]
        for shape, clip in shown:
            features = describe(body_mask(look, clip, acted.expected), clip)
            if features is not None:
                yield shape, features


def softened(clip: np.ndarray) -> np.ndarray:
    """A clip that is blurred a little, as decoders do."""
    return ndimage.gaussian_filter(clip.astype(np.float32), (0, 0.8, 0.8, 0)).round().astype(np.uint8)


def blobs(acted: Acted, colours: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """The true way and area, but a shapeless outline and mottled insides."""
    out = acted.expected.copy()
    noise = ndimage.gaussian_filter(rng.normal(size=SIZE), rng.uniform(2.5, 5))
    for frame, mask in zip(out, acted.dynamic, strict=True):
        if mask.sum() < 4:
            continue
        middle = np.argwhere(mask).mean(0)
        distance = np.linalg.norm(np.indices(SIZE) - middle[:, None, None], axis=0) / np.sqrt(
            mask.sum() / np.pi
        )
        field = distance + 0.5 * np.roll(noise, tuple(middle.astype(int)), (0, 1)) / noise.std()
        body = field <= np.partition(field.ravel(), mask.sum())[mask.sum()]
        bands = np.array([staging.RGB[c] for c in colours])[
            np.minimum(len(colours) - 1, np.zeros(body.sum(), int))
        ]
        frame[body] = np.clip(bands * 255 * (1 + 0.12 * rng.normal(size=(body.sum(), 1))), 0, 255).astype(
            np.uint8
        )
    return out


def fit(shapes: np.ndarray, features: np.ndarray) -> dict:
    """The softmax regression on standardised features, their squares and 1."""
    names = sorted(set(shapes))
    mean, spread = features.mean(0), features.std(0) + 1e-6
    unit = np.clip((features - mean) / spread, -3, 3)
    inputs = np.concatenate([unit, unit**2, np.ones((len(unit), 1))], 1)
    target = np.stack([shapes == name for name in names], 1).astype(float)
    weight = 1 / target.sum(0)[target.argmax(1)]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(inputs.shape[1], len(names))
        logits = inputs @ w
        logits -= logits.max(1, keepdims=True)
        odds = np.exp(logits)
        odds /= odds.sum(1, keepdims=True)
        value = -(weight * np.log((odds * target).sum(1) + 1e-12)).sum() + RIDGE * (w**2).sum()
        return value, (inputs.T @ (weight[:, None] * (odds - target)) + 2 * RIDGE * w).ravel()

    w = optimize.minimize(loss, np.zeros(inputs.shape[1] * len(names)), jac=True, method="L-BFGS-B").x
    w = w.reshape(inputs.shape[1], len(names))
    logits = inputs @ w
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    least = {n: float(np.quantile(odds[shapes == n, i], QUANTILE)) for i, n in enumerate(names)}
    return {
        "features": list(FEATURES), "shapes": names, "mean": mean.round(5).tolist(), "spread": spread.round(5).tolist(),
        "weights": w.round(4).tolist(), "least": {n: round(0.8 * v, 4) for n, v in least.items()},
    }  # fmt: skip


def check_scene(seed: int) -> list[dict]:
    """Rows {scene, event, case, seen} of what the judge says of a dev scene's true clips, near misses and
    overlays.
    """
    rows = []
    for index, (name, look) in enumerate(LOOKS.items()):
        path = path_of(seed, index)
        acted = act(seed, (name,), path, SIZE)
        cases = {
            "true": acted.clip,
            "overlay": staging.rectangles(acted, look.colours),
            "quiet": acted.expected,
        }
        cases |= {miss: a.clip for miss, a in staging.near_misses(seed, name, path, SIZE, acted).items()}
        for case, clip in cases.items():
            why = judge_mover(look, clip, acted.expected)
            rows.append({"scene": seed, "event": name, "case": case, "seen": float(not why), "why": why})
        others = [
            other for other in LOOKS if other != name and saw_mover(LOOKS[other], acted.clip, acted.expected)
        ]
        rows.append(
            {
                "scene": seed,
                "event": name,
                "case": "another",
                "seen": float(bool(others)),
                "why": ",".join(others),
            }
        )
    return rows


def main() -> None:
    """Fit or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        table = pd.DataFrame(
            [row for seed in range(10000, 10000 + options.scenes) for row in check_scene(seed)]
        )
        print(
            table.pivot_table(index="event", columns="case", values="seen", margins=True).round(2).to_string()
        )
        return
    pairs = [pair for seed in range(options.scenes) for pair in samples(seed)]
    model = fit(np.array([shape for shape, _ in pairs]), np.array([features for _, features in pairs]))
    MODEL_FILE.write_text(json.dumps(model) + "\n", encoding="utf-8")
    print(f"{MODEL_FILE}: {len(pairs)} clips; least {model['least']}")


if __name__ == "__main__":
    main()
