"""The shipped specs that stand for a kind of kernel each. Slow tests run these at length and the others briefly."""

REPRESENTATIVE = (
    "additive_bias",  # an input with a query and a key axis
    "affine_scaled",  # two accumulators, one of them without a product
    "alibi",  # a shift-invariant ratio with positions
    "forgetting",  # terms of the query and of the key
    "hstu",  # elementwise
    "lssar",  # staged
    "poly2",
    "sigmoid",
    "sink",  # a virtual key
    "softmax",
    "softpick",  # different functions above and below the line
    "softplus_l1",
    "two_temperatures",  # two pivots
)

# What the kernels for Hopper leave to the others: inputs with a query and a key axis, cosines, formulas that registers
# don't hold.
BEYOND_HOPPER = frozenset({"additive_bias", "cosformer", "scaled_cosine", "softpick"})
