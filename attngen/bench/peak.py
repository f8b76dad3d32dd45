"""What the cores can multiply and add at most: a loop of independent multiply-adds in registers, on every thread.

A plain matrix product stays below it, by a third in some libraries. The loop is C++, compiled for the CPU at hand;
there is no figure without a compiler, nor for a type that the CPU has no multiply-adds for.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

_ROUNDS = 2_000_000
_SOURCE = """
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif
typedef float Vec __attribute__((vector_size(BYTES)));

// Operations of all rounds. Twelve chains keep two units of a latency of up to six cycles busy.
template <class Step>
static double run(long rounds, double operations, Step step) {
  const Vec zero = {};
  Vec a = zero, b = zero + 1, c = zero + 2, d = zero + 3, e = zero + 4, f = zero + 5;  // no two chains are the same
  Vec g = zero + 6, h = zero + 7, i = zero + 8, j = zero + 9, k = zero + 10, l = zero + 11, x = zero + 0.5f;
  for (long round = 0; round < rounds; round++) {
    a = step(a, x), b = step(b, x), c = step(c, x), d = step(d, x), e = step(e, x), f = step(f, x);
    g = step(g, x), h = step(h, x), i = step(i, x), j = step(j, x), k = step(k, x), l = step(l, x);
    asm volatile("" : "+m"(x));  // no round is the last one's again
  }
  volatile float kept = (a + b + c + d + e + f + g + h + i + j + k + l)[0];
  (void)kept;
  return 12. * rounds * operations;
}

extern "C" double float32(long rounds) {
  return run(rounds, 2 * BYTES / 4, [](Vec sum, Vec x) { return sum * x + x; });
}

extern "C" double bfloat16([[maybe_unused]] long rounds) {
#if defined(__AVX512BF16__)
  return run(rounds, 4 * BYTES / 4, [](Vec sum, Vec x) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)x);
  });
#else
  return 0;
#endif
}
"""


def multiply_adds(dtype: str, best: Callable[[Callable[[], None]], float]) -> float | None:
    """Operations per second of all threads; `best` is the seconds that a function takes. None if it can't be told."""
    library = _library()
    if library is None or dtype not in ("float32", "bfloat16"):
        return None
    loop = library[dtype]
    loop.argtypes, loop.restype = [ctypes.c_long], ctypes.c_double
    threads = torch.get_num_threads()
    operations = threads * loop(_ROUNDS)
    with ThreadPoolExecutor(threads) as pool:

        def all_threads() -> None:
            list(pool.map(loop, [_ROUNDS] * threads))

        return operations / best(all_threads) if operations else None


def _library() -> ctypes.CDLL | None:
    compiler = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "peak.cpp"), Path(folder, "peak.so")
        source.write_text(_SOURCE, "utf-8")
        flags = ["-O2", "-std=c++20", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        done = subprocess.run([compiler, *flags, str(source), "-o", str(library)], capture_output=True)
        return ctypes.CDLL(str(library)) if done.returncode == 0 else None
