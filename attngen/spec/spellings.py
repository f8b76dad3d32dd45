"""Names of other libraries and of papers: what to write in their place, or why nothing can be written.

A weight is a function of its own score, of reductions over all keys that the row sees, and of inputs. What takes the
order of the keys, products of matrices, or the values into the weights is no such function; the advice says what would
be one, or what belongs before or behind the op.
"""

from dataclasses import dataclass

_MASKS = "masks are arguments of the call, not part of the formula"
_VECTORS = "qk, their dot product; norms come as inputs, feature maps are applied to query and key before the call"

# Name -> what to write here.
SPELLINGS = {
    "softmax": "exp(s) / sum(exp(s))",
    "log_softmax": "s - log(sum(exp(s)))",
    "softmin": "exp(-s) / sum(exp(-s))",
    "sparsemax": "relu(s - tau), with a let `tau` that is the root of sum(relu(s - tau)) - 1",
    "entmax": "relu(s / 2 - tau) ** 2, with a let `tau` that is the root of sum(relu(s / 2 - tau) ** 2) - 1",
    "normalize": "x / sum(x), or x / sqrt(sum(x ** 2))",
    "norm": "sqrt(sum(x ** 2)) over the keys; norms of query and key come as inputs",
    "logsumexp": "log(sum(exp(s)))",
    "lse": "log(sum(exp(s)))",
    "e": "exp(1)",
    "pow": "x ** y",
    "square": "x ** 2",
    "log2": "log(x) / log(2)",
    "exp2": "2 ** x",
    "logsigmoid": "log(sigmoid(x))",
    "swish": "silu(x)",
    "gelu": "x * (1 + erf(x / sqrt(2))) / 2",
    "elu": "where(x > 0, x, expm1(min(x, 0)))",
    "leaky_relu": "max(x, 0.01 * x)",
    "hardtanh": "clip(x, -1, 1)",
    "tan": "sin(x) / cos(x)",
    "cosh": "(exp(x) + exp(-x)) / 2",
    "sinh": "(exp(x) - exp(-x)) / 2",
    "var": "mean((x - mean(x)) ** 2)",
    "std": "sqrt(mean((x - mean(x)) ** 2))",
    "average": "mean(x)",
    "clamp": "clip(x, lo, hi)",
    "minimum": "min(a, b)",
    "maximum": "max(a, b)",
    "len": "count() or n",
    "length": "count() or n",
    "prod": "exp(sum(log(x))), over all keys that the row sees",
    "stop_gradient": "detach(x)",
    "q": _VECTORS,
    "k": _VECTORS,
    "phi": _VECTORS,
    "query": "i, the query's position, or qk",
    "key": "j, the key's position, or qk",
    "is_causal": _MASKS,
    "window": _MASKS,
    "mask": _MASKS,
    "True": "1 for a number, or a comparison",
    "False": "0 for a number, or a comparison",
    "inf": "a finite number; amax and amin need no start",
    "nan": "a finite number",
}


@dataclass(frozen=True, slots=True)
class Beyond:
    """Names of what no formula of a row can say: why not, and what to do instead."""

    names: tuple[str, ...]
    why: str
    instead: str


_BEYOND = (
    Beyond(
        ("cumsum", "cumprod", "cummax", "logcumsumexp", "scan", "cumulative", "roll", "shift", "diff", "conv"),
        "weights are functions of a row's scores, whatever the order of the keys",
        "reductions over all keys that the row sees, such as sum(x); what is cumulated over positions outside comes as "
        "inputs, such as c_query - c_key",
    ),
    Beyond(
        ("inv", "inverse", "pinv", "solve", "solve_triangular", "matmul", "einsum", "det", "transpose", "tril"),
        "weights are functions of one row's scores, not of a matrix between keys",
        "a formula of the row; solve(M, value) comes before the call, and its result is the op's value",
    ),
    Beyond(
        ("v", "value", "values"),
        "weights are functions of scores and inputs, not of the values",
        "`output` for a last step on the weighted sum; factors of the values belong before the call",
    ),
    Beyond(
        ("topk", "top_k", "sort", "argsort", "rank", "median", "quantile", "argmax"),
        "the order of a row's scores is no reduction",
        "amax(x), amin(x), or a threshold that is the root of a sum, in a let with `root` and `between`",
    ),
    Beyond(
        ("dropout", "rand", "randn", "random", "gumbel", "noise", "bernoulli"),
        "equal calls have equal weights",
        "noise in an input with a query and a key axis",
    ),
    Beyond(
        ("floor", "ceil", "round", "mod", "int"),
        "the language has no whole numbers",
        "an input with the rounded values, or where(x < 1, a, b) for single steps",
    ),
)
BEYOND = {name: beyond for beyond in _BEYOND for name in beyond.names}
