"""On real Ray, where it is installed (`pip install 'spatia-env[ray]'`): workers are killed, nothing is lost."""

from types import SimpleNamespace

import pytest

ray = pytest.importorskip("ray")

from ray_kills import RayKillsConfig, run_ray_kills  # noqa: E402
from spatia_env.errors import WorkerError  # noqa: E402
from spatia_env.vector.ray import RayVectorEnv  # noqa: E402
from untrained import write_untrained  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # workers start again and again, each in its own process
    # Ray Serve's own models use what the newest Pydantic deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("serve", [True, False])
def test_killed_workers_lose_and_repeat_nothing(cluster, serve, tmp_path):
    model = str(write_untrained(tmp_path))
    found = run_ray_kills(RayKillsConfig(kills=3, model=model, serve=serve))
    assert found["run"]["kills"] == 3 and found["run"]["replaced"] >= 1
    assert found["wrong"] == 0


def test_a_full_object_store_is_named(cluster):
    @ray.remote
    def full():
        raise ray.exceptions.ObjectStoreFullError("no room")

    with pytest.raises(WorkerError, match="object_store_memory"):
        RayVectorEnv._try(SimpleNamespace(ray=ray), lambda: ray.get(full.remote(), timeout=120))
