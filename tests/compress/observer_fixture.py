#!/usr/bin/env python3
"""Ranges by the definitions of compress/observer.h, made with numpy: prints observer_fixture.h.

    python3 observer_fixture.py > observer_fixture.h
"""
import numpy as np

BINS, TRIALS = 2048, 80
METHODS = ["MINMAX", "PERCENTILE", "MSE", "ENTROPY"]


def values(shape, n):
    """A generator that the test repeats in C: whole numbers, then one exact rounding to float32."""
    seed, out = 1, np.empty(n, np.float32)
    for i in range(n):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        v = (seed >> 40) / 2**23 - 1.0
        if shape == 1:
            v = v * v * v * v * v
        if shape == 2:
            v = v * v + 0.25
        out[i] = np.float32(v)
    return out


def grid(x, low, high, bits, symmetric):
    if symmetric:
        most = 2 ** (bits - 1) - 1
        s = high / most
        return np.clip(np.rint(x / s), -most, most) * s
    most = 2**bits - 1
    s = (high - low) / most
    zero = np.rint(-low / s)
    return (np.clip(np.rint(x / s) + zero, 0, most) - zero) * s


def cut(low, high, limit, symmetric):
    return (-limit, limit) if symmetric else (min(max(low, -limit), 0.0), max(min(high, limit), 0.0))


def mse_limit(x, weight, low, high, most, bits, symmetric):
    errors = []
    for k in range(1, TRIALS + 1):
        a, b = cut(low, high, most * k / TRIALS, symmetric)
        errors.append(np.sum(weight * (x - grid(x, a, b, bits, symmetric)) ** 2))
    return most * (int(np.argmin(errors)) + 1) / TRIALS


def histogram(x):
    most = float(np.max(np.abs(x)))
    edge = 2.0 ** (np.frexp(most)[1])
    return np.bincount(np.floor(np.abs(x).astype(float) * (BINS / edge)).astype(int), minlength=BINS), edge


def entropy_limit(x, bits, step, most):
    count, edge = histogram(x)
    levels, best, limit = 2 ** (bits - 1), None, most
    for i in range(levels, BINS + 1, step):
        p = count[:i].astype(float)
        p[-1] += count[i:].sum()
        if count[:i].sum() == 0:
            continue
        level = np.arange(i) * levels // i
        mass = np.bincount(level, count[:i], levels)
        filled = np.bincount(level, p > 0, levels)
        q = np.where(p > 0, (mass / np.maximum(filled, 1))[level], 0)
        if np.any((p > 0) & (q == 0)):
            continue
        p /= p.sum()
        q /= q.sum()
        on = p > 0
        kl = max(np.sum(p[on] * np.log(p[on] / q[on])), 0)
        if best is None or kl < best:
            best, limit = kl, min(most, i * edge / BINS)
    return limit


def ranges(x, method, p, bits, symmetric, stream):
    d = x.astype(float)
    low, high, most = min(d.min(), 0.0), max(d.max(), 0.0), np.abs(d).max()
    limit = most
    if method == "PERCENTILE":
        if symmetric:
            limit = np.quantile(np.abs(d), p / 100)
        else:
            low, high = np.quantile(d, 1 - p / 100), np.quantile(d, p / 100)
    elif method == "MSE" and stream:
        count, edge = histogram(x)
        middle = (np.arange(BINS) + 0.5) * edge / BINS
        limit = mse_limit(middle, count, 0, 0, most, bits, True)
    elif method == "MSE":
        limit = mse_limit(d, 1.0, low, high, most, bits, symmetric)
    elif method == "ENTROPY":
        limit = entropy_limit(x, bits, 1 if stream else 16, most)
    return cut(low, high, limit, symmetric)


print("/* observer_fixture.h: made by observer_fixture.py with numpy; see there. */")
print("static const struct {\n    uint32_t shape, n, method, bits;\n    double percentile;\n"
      "    bool is_symmetric, is_stream;\n    double low, high;\n} fixture[] = {")
for shape in range(3):
    for n in (1, 32, 1000, 20011):
        x = values(shape, n)
        for m, method in enumerate(METHODS):
            for bits in (4, 8):
                for symmetric in (True, False):
                    for stream in (False, True):
                        for p in (99.0, 99.9) if method == "PERCENTILE" else (0,):
                            if method in ("MINMAX", "PERCENTILE") and bits == 4:
                                continue
                            low, high = ranges(x, method, p, bits, symmetric, stream)
                            print(f"    {{{shape}, {n}, OBSERVER_{method}, {bits}, {p}, {str(symmetric).lower()}, "
                                  f"{str(stream).lower()}, {low!r}, {high!r}}},".replace("np.float64(", "").replace(")", ""))
print("};")
