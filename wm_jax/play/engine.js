"use strict";
// Evaluates graphs of `wm_jax.play`: every value is one typed array, made once; a call fills the arguments' arrays, runs the
// operations in order and copies the results. What moves numbers has its table of places, made once too.
const Engine = (() => {
  const ARRAYS = { float32: Float32Array, int32: Int32Array, uint32: Uint32Array, uint8: Uint8Array, bool: Uint8Array };

  // ---- element by element; arithmetic in double precision, rounded where it is stored
  const integer = (dtype) => dtype === "int32" || dtype === "uint32";
  const UNARY = {
    abs: Math.abs, ceil: Math.ceil, cos: Math.cos, exp: Math.exp, expm1: Math.expm1, floor: Math.floor, log: Math.log,
    log1p: Math.log1p, neg: (x) => -x, sign: Math.sign, sin: Math.sin, sqrt: Math.sqrt, tanh: Math.tanh,
    is_finite: (x) => Number.isFinite(x), logistic: (x) => 1 / (1 + Math.exp(-x)), rsqrt: (x) => 1 / Math.sqrt(x),
    round_away: (x) => Math.sign(x) * Math.round(Math.abs(x)),
    round_to_even: (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)), square: (x) => x * x, erf_inv: inverseErrorFunction,
  };
  const BINARY = {
    add: (x, y) => x + y, and: (x, y) => x & y, div: (x, y) => x / y, eq: (x, y) => x === y, ge: (x, y) => x >= y,
    gt: (x, y) => x > y, le: (x, y) => x <= y, lt: (x, y) => x < y, max: Math.max, min: Math.min, mul: (x, y) => x * y,
    ne: (x, y) => x !== y, or: (x, y) => x | y, pow: Math.pow, rem: (x, y) => x % y, sub: (x, y) => x - y,
    shift_left: (x, y) => (y > 31 ? 0 : x << y), shift_right_logical: (x, y) => (y > 31 ? 0 : x >>> y), xor: (x, y) => x ^ y,
  };
  const INTEGER = { mul: Math.imul, div: (x, y) => Math.trunc(x / y), square: (x) => Math.imul(x, x) };

  // M. Giles, "Approximating the erfinv function", single precision: what XLA computes.
  function inverseErrorFunction(x) {
    if (Math.abs(x) === 1) return x * Infinity;
    let w = -Math.log1p(-x * x);
    const near = w < 5;
    w = near ? w - 2.5 : Math.sqrt(w) - 3;
    const terms = near
      ? [2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6, 2.1858087e-4, -1.25372503e-3, -4.17768164e-3,
         2.46640727e-1, 1.50140941]
      : [-2.00214257e-4, 1.00950558e-4, 1.34934322e-3, -3.67342844e-3, 5.73950773e-3, -7.6224613e-3, 9.43887047e-3,
         1.00167406, 2.83297682];
    return terms.reduce((sum, term) => sum * w + term) * x;
  }

  function elementwise(name, out, values, dtypes) {
    const f = (integer(dtypes[0]) && INTEGER[name]) || BINARY[name] || UNARY[name];
    const n = out.length, [a, b] = values;
    if (values.length === 1) return () => { for (let i = 0; i < n; i++) out[i] = f(a[i]); };
    const i1 = a.length === 1 ? 0 : 1, i2 = b.length === 1 ? 0 : 1;
    return () => { for (let i = 0; i < n; i++) out[i] = f(a[i * i1], b[i * i2]); };
  }

  // ---- products
  // out[o…o+n] += a[ao…ao+k] times the rows of b, [k, n] from bo on. Half of what a rectified layer gives is zero.
  function accumulate(out, o, a, ao, b, bo, k, n) {
    if (n < 4) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let i = 0, at = bo + j; i < k; i++, at += n) sum += a[ao + i] * b[at];
        out[o + j] += sum;
      }
      return;
    }
    let i = 0;
    for (; i + 4 <= k; i += 4) {
      const a0 = a[ao + i], a1 = a[ao + i + 1], a2 = a[ao + i + 2], a3 = a[ao + i + 3];
      if (a0 === 0 && a1 === 0 && a2 === 0 && a3 === 0) continue;
      const b0 = bo + i * n, b1 = b0 + n, b2 = b1 + n, b3 = b2 + n;
      for (let j = 0; j < n; j++) out[o + j] += a0 * b[b0 + j] + a1 * b[b1 + j] + a2 * b[b2 + j] + a3 * b[b3 + j];
    }
    for (; i < k; i++) {
      const a0 = a[ao + i], b0 = bo + i * n;
      for (let j = 0; j < n; j++) out[o + j] += a0 * b[b0 + j];
    }
  }

  function product(out, [a, b], { batch, m, k, n }) {
    return () => {
      out.fill(0);
      for (let row = 0; row < batch * m; row++) accumulate(out, row * n, a, row * k, b, Math.floor(row / m) * k * n, k, n);
    };
  }

  // `spread`: how far apart the image's pixels are laid before the kernel passes (transposed convolutions).
  function convolution(out, [a, b], { image, kernel, result, stride, low, spread, apart }) {
    const [count, height, width, k] = image, [tall, wide, , n] = kernel, [, rows, columns] = result;
    const place = (at, tap, axis, length) => {
      const found = at * stride[axis] - low[axis] + tap * apart[axis];
      return found < 0 || found % spread[axis] || found / spread[axis] >= length ? -1 : found / spread[axis];
    };
    return () => {
      out.fill(0);
      for (let image = 0, o = 0; image < count; image++)
        for (let row = 0; row < rows; row++)
          for (let column = 0; column < columns; column++, o += n)
            for (let y = 0; y < tall; y++) {
              const from = place(row, y, 0, height);
              if (from < 0) continue;
              for (let x = 0; x < wide; x++) {
                const at = place(column, x, 1, width);
                if (at >= 0) accumulate(out, o, a, ((image * height + from) * width + at) * k, b, (y * wide + x) * k * n, k, n);
              }
            }
    };
  }

  // ---- what moves numbers
  // [size of `shape`]: the place of each element, `strides` apart from `offset` on.
  function places(shape, strides, offset) {
    let found = [offset];
    shape.forEach((length, axis) => {
      const next = [];
      for (const from of found) for (let i = 0; i < length; i++) next.push(from + i * strides[axis]);
      found = next;
    });
    return Int32Array.from(found);
  }

  function view(out, [a], { shape, strides, offset }) {
    const table = places(shape, strides, offset);
    return () => { for (let i = 0; i < table.length; i++) out[i] = a[table[i]]; };
  }

  function pad(out, [a, value], { shape, strides, offset }) {
    const table = places(shape, strides, offset);
    return () => { out.fill(value[0]); for (let i = 0; i < table.length; i++) out[table[i]] = a[i]; };
  }

  function concatenate(out, values, { rows }) {
    return () => {
      for (let at = 0, row = 0; at < out.length; row++)
        values.forEach((value, i) => { out.set(value.subarray(row * rows[i], (row + 1) * rows[i]), at); at += rows[i]; });
    };
  }

  function select(out, [which, ...cases]) {
    const steps = cases.map((each) => (each.length === 1 ? 0 : 1)), step = which.length === 1 ? 0 : 1;
    return () => { for (let i = 0; i < out.length; i++) { const c = which[i * step]; out[i] = cases[c][i * steps[c]]; } };
  }

  function convert(out, [a], dtype) {
    if (dtype === "bool") return () => { for (let i = 0; i < out.length; i++) out[i] = a[i] !== 0 ? 1 : 0; };
    return () => { for (let i = 0; i < out.length; i++) out[i] = a[i]; };
  }

  // ---- over the last `count` numbers of each row
  const FOLDS = {
    reduce_sum: [0, (sum, x) => sum + x], reduce_max: [-Infinity, Math.max], reduce_min: [Infinity, Math.min],
    reduce_and: [1, (all, x) => all & x], reduce_or: [0, (any, x) => any | x],
  };

  function fold(name, out, [a], { count }) {
    if (name === "argmax" || name === "argmin") {
      const better = name === "argmax" ? (x, y) => x > y : (x, y) => x < y;
      return () => {
        for (let row = 0; row < out.length; row++) {
          let best = 0;
          for (let i = 1; i < count; i++) if (better(a[row * count + i], a[row * count + best])) best = i;
          out[row] = best;
        }
      };
    }
    const [begin, step] = FOLDS[name];
    return () => {
      for (let row = 0; row < out.length; row++) {
        let sum = begin;
        for (let i = 0; i < count; i++) sum = step(sum, a[row * count + i]);
        out[row] = sum;
      }
    };
  }

  // ---- random numbers: Threefry-2x32 with 20 rounds (Salmon et al., 2011), counted as JAX counts
  const ROTATIONS = [[13, 15, 26, 6], [17, 29, 16, 24]];

  function threefry(key, high, low) {
    const keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bda];
    let x = (high + keys[0]) | 0, y = (low + keys[1]) | 0;
    for (let round = 0; round < 5; round++) {
      for (const by of ROTATIONS[round % 2]) {
        x = (x + y) | 0;
        y = ((y << by) | (y >>> (32 - by))) ^ x;
      }
      x = (x + keys[(round + 1) % 3]) | 0;
      y = (y + keys[(round + 2) % 3] + round + 1) | 0;
    }
    return [x, y];
  }

  const RANDOM = {
    random_bits: (out, [key]) => () => {
      for (let i = 0; i < out.length; i++) { const [x, y] = threefry(key, 0, i); out[i] = x ^ y; }
    },
    random_split: (out, [key]) => () => { for (let i = 0; i < out.length / 2; i++) out.set(threefry(key, 0, i), 2 * i); },
    random_fold_in: (out, [key, number]) => () => out.set(threefry(key, 0, number[0])),
  };

  // ---- graphs
  function operation(name, out, values, settings, dtypes, dtype) {
    if (name in RANDOM) return RANDOM[name](out, values);
    if (name in FOLDS || name === "argmax" || name === "argmin") return fold(name, out, values, settings);
    if (name === "not") {
      const [a] = values;
      return () => { for (let i = 0; i < out.length; i++) out[i] = dtype === "bool" ? 1 - a[i] : ~a[i]; };
    }
    switch (name) {
      case "product": return product(out, values, settings);
      case "convolution": return convolution(out, values, settings);
      case "view": return view(out, values, settings);
      case "pad": return pad(out, values, settings);
      case "concatenate": return concatenate(out, values, settings);
      case "select_n": return select(out, values);
      case "convert": return convert(out, values, dtype);
      default: return elementwise(name, out, values, dtypes);
    }
  }

  // Little-endian float16 → float32.
  function widened(halves) {
    return Float32Array.from(halves, (bits) => {
      const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
      if (exponent === 31) return fraction ? NaN : sign * Infinity;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
    });
  }

  function constant({ dtype, stored, offset, size }, buffer) {
    if (stored === "float16") return widened(new Uint16Array(buffer, offset, size));
    return new ARRAYS[dtype](buffer, offset, size);
  }

  function compiled({ arguments: inputs, nodes, results }, constants) {
    const values = new Map(constants), dtypes = new Map();
    for (const { number, size, dtype } of inputs) { values.set(number, new ARRAYS[dtype](size)); dtypes.set(number, dtype); }
    const steps = [];
    for (const [name, number, from, dtype, size, settings] of nodes) {
      const given = from.map((each) => values.get(each));
      dtypes.set(number, dtype);
      if (name === "same") { values.set(number, given[0]); continue; }
      if (name === "bitcast_convert_type") { values.set(number, new ARRAYS[dtype](given[0].buffer, given[0].byteOffset, size)); continue; }
      const out = new ARRAYS[dtype](size);
      values.set(number, out);
      steps.push(operation(name, out, given, settings, from.map((each) => dtypes.get(each) ?? "float32"), dtype));
    }
    const targets = inputs.map(({ number }) => values.get(number)), found = results.map((number) => values.get(number));
    return (...given) => {
      if (given.length !== targets.length) throw new Error(`expected ${targets.length} arrays, found ${given.length}`);
      targets.forEach((target, i) => target.set(given[i]));
      for (const step of steps) step();
      return found.map((array) => array.slice());
    };
  }

  // `program`: {constants, functions} as `wm_jax.play.program` writes it; `buffer`: the constants' numbers, an ArrayBuffer.
  // Returns {name: (typed arrays…) → [typed arrays…]}.
  function load(program, buffer) {
    const constants = program.constants.map((each) => [each.number, constant(each, buffer)]);
    return Object.fromEntries(Object.entries(program.functions).map(([name, each]) => [name, compiled(each, constants)]));
  }

  return { load };
})();
if (typeof module !== "undefined") module.exports = Engine;
