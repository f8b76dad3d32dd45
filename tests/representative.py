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
  a: tanh(s)
  b: erf(s)
  c: atan(s)
  d: sin(s)
  e: cos(s)
  f: softplus(s)
  g: sqrt(1 + s * s)
weights: a * (b + c) + b * (c + d) + c * (d + e) + d * (e + f) + e * (f + g) + f * (g + a) + g * (a + b)
"""
