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

# A formula of more tiles of values at a time than registers hold: the kernels for Hopper leave it to the others.
BEYOND_HOPPER = """
name: crowded
let:
  t: tanh(s)
  u: erf(s)
  v: atan(s)
  w: sin(s)
  x: cos(s)
  y: softplus(s)
  z: sqrt(1 + s * s)
weights: t * (u + v) + u * (v + w) + v * (w + x) + w * (x + y) + x * (y + z) + y * (z + t) + z * (t + u)
"""
