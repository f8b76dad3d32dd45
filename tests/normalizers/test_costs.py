"""What each shipped op costs: passes over the keys and matrix products, held to what the literature's table says.

The numbers are upper bounds: an op may do with less. They stand here to be read, one line for each kind.
"""

from typing import NamedTuple

import pytest

from attngen.catalog import read, shipped
from attngen.explain.catalogue import catalogue, saved_tensors
from attngen.paths import data_dir
from attngen.pipeline import Compilation, compile_spec


class Bound(NamedTuple):
    """Passes, and products: of the forward, the backward's query kernel, its key kernel, its pair kernels."""

    passes: int
    forward: int
    query: int
    key: int
    pair: int = 0


SINGLE = Bound(1, 2, 3, 4)  # one pass; dO . O serves every ratio, elementwise weights need no row adjoint at all
ELEMENTWISE = "gaussian hstu hstu_scaled identity laplace power relu_n relu_squared sigmoid"
RATIOS = (
    "cosformer elu_l1 l2 lssa poly2 polynomial rebased relu_l1 retention sigmoid_l1 softplus_l1 spherical stablemax"
)
EXPONENTIAL = (
    "alibi cog exp_l2 forgetting gaussian_l1 log_n position_temperature row_scaled sink softcap softmax softmax1 "
    "softmax_n softmax_power softpick ssmax temperature_alibi"
)
AFFINE = "affine_scaled affine_total affine_visible"  # beta takes a column sum, no product
BOUNDS = {name: SINGLE for kind in (ELEMENTWISE, RATIOS, EXPONENTIAL, AFFINE) for name in kind.split()} | {
    "additive_bias": Bound(1, 2, 3, 4, pair=2),
    "scaled_cosine": Bound(1, 2, 3, 4, pair=2),
    "two_temperatures": Bound(1, 3, 3, 4),  # two weighted sums of the values, one product of query and key
    "lssar": Bound(2, 3, 4, 4),  # scores twice; the first sum's adjoint deferred
    "t_softmax": Bound(2, 3, 5, 4),
    "transnormer": SINGLE,
    "exp_norm": SINGLE,
    # A bound of the threshold, the search, which takes scores once for every trial, and the output.
    **dict.fromkeys(("sparsemax", "entmax15", "alpha_entmax"), Bound(3, 4, 4, 4)),
}


def compiled(name: str) -> Compilation:
    spec = read(name)
    return compile_spec(spec.text, spec.path)


def test_every_spec_has_a_bound() -> None:
    assert {path.stem for path in shipped()} == set(BOUNDS)


@pytest.mark.parametrize("name", BOUNDS)
def test_passes_and_products(name: str) -> None:
    plan = compiled(name).plan
    costs, pairs = plan.costs, len(plan.pair_gradients)
    passes = len(plan.analysis.forward.passes)
    found = Bound(passes, costs.forward, costs.backward_query, costs.backward_key, costs.backward_pair * pairs)
    assert all(mine <= bound for mine, bound in zip(found, BOUNDS[name], strict=True)), found


@pytest.mark.parametrize("name", ELEMENTWISE.split())
def test_elementwise_weights_save_nothing(name: str) -> None:
    assert saved_tensors(compiled(name).plan) == ()


@pytest.mark.parametrize("name", (EXPONENTIAL + " additive_bias scaled_cosine").split())
def test_exponentials_save_one_logarithm_of_each_row(name: str) -> None:
    assert saved_tensors(compiled(name).plan) == ("out", "lse")


def test_the_page_is_current() -> None:
    """`make docs` writes it."""
    page = data_dir() / "docs" / "normalizers.md"
    assert page.read_text("utf-8") == catalogue(compiled(path.stem) for path in shipped())
