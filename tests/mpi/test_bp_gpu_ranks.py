"""Messages of ranks with a card each are those of ranks without: in Numba's simulator, which is chosen on all ranks."""

from __future__ import annotations

import pytest
from mpi.test_launch import launch

from hpcblaz.bp import infer_partitioned, ising, split
from hpcblaz.errors import ConfigurationError

CODE = """
import os, sys
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
import numpy as np
from hpcblaz.bp import FactorGraph, infer, infer_partitioned, ising, split
from hpcblaz.mpi import world

comm = world()
rng = np.random.default_rng(0)
factors = [((0, 1, 2), rng.random((2, 3, 2))), ((2, 3), rng.random((2, 2))), ((3, 0), rng.random((2, 2)))]
models = {"binary": ising(3, 1.5, seed=1), "factors": FactorGraph.from_tables([2, 3, 2, 2], factors)}

def compare(model, schedule, **options):
    options = dict(max_iterations=1, seed=3, low=0.5, tolerance=1e-9) | options
    one = infer_partitioned(model, schedule, **options)
    two = infer_partitioned(model, schedule, device="gpu", **options)
    np.testing.assert_allclose(two.messages, one.messages, rtol=1e-6)
    assert len(one.messages) > one.local.places[one.local.count]  # there is a tail
    assert two.history.unconverged.tolist() == one.history.unconverged.tolist()
    assert two.updates == one.updates and isinstance(two.messages, np.ndarray)
    return two

for kind, whole in models.items():
    model = split(whole, comm)
    compare(model, "rnbp" if kind == "factors" else "lbp")
model = split(models["binary"], comm)
compare(model, "lbp", damping=0.3, local_sweeps=2)
path = sys.argv[1]
first = infer_partitioned(model, "lbp", device="gpu", max_iterations=1, tolerance=1e-9, checkpoint=path)
then = infer_partitioned(model, "lbp", device="gpu", max_iterations=2, tolerance=1e-9, checkpoint=path)
np.testing.assert_array_equal(then.messages, compare(model, "lbp", max_iterations=2).messages)
print("equal")
"""


@pytest.mark.parametrize("direct", [False, True], ids=["by-the-host", "from-the-card"])
def test_messages_are_those_of_ranks_without_cards(tmp_path_factory: pytest.TempPathFactory, direct: bool) -> None:
    setting = f"import os; os.environ['HPCBLAZ_CUDA_AWARE_MPI'] = '{int(direct)}'\n"
    drawn = CODE.split("for kind")[0] + "compare(split(models['binary'], comm), 'rnbp')\nprint('equal')\n"
    code = drawn if direct else CODE
    status, output = launch(2, ["-c", setting + code, str(tmp_path_factory.mktemp("run") / "messages")], 300)
    assert status == 0 and output.count("equal") == 2, output


def test_what_has_no_place_on_cards_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'gpu'"):
        infer_partitioned(split(ising(3, 1.0)), "lbp", device="tpu")
