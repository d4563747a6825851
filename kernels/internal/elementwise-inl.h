// exp, conversions and row-wise operations in terms of the vector names; included once per instruction set,
// where LOMBARD_ISA names its namespace.
#pragma once

namespace lombard::internal::LOMBARD_ISA {
namespace {

// The last, incomplete vector of an array goes through a padded copy, so that nothing is read or written
// behind the end.
template <class T>
inline void CopyIn(const T* src, int count, T* padded) {
  for (int i = 0; i < kLanes; ++i) padded[i] = T{};
  __builtin_memcpy(padded, src, count * sizeof(T));
}

// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2) / 2, ln 2 in two parts (the first exact times n).
// e^r = 1 + r + r^2 P(r), P of degree 4, interpolated at Chebyshev nodes: 1.1e-8 relative. NaN stays NaN; 0
// below -87.3.
inline F Exp(F x) {
  const F low = Set1(-87.33f);
  const F clamped = Max(low, Min(Set1(88.3f), x));
  const F magic = Set1(0x1.8p23f);  // adding it rounds to an integer, left in the low bits
  const F shifted = MulAdd(clamped, Set1(0x1.715476p+0f), magic);
  const F n = Sub(shifted, magic);
  const F r = MulAdd(n, Set1(2.1219444170128554e-4f), MulAdd(n, Set1(-0.693359375f), clamped));
  F p = MulAdd(Set1(0x1.6d113cp-10f), r, Set1(0x1.120ba2p-7f));
  p = MulAdd(p, r, Set1(0x1.55551ap-5f));
  p = MulAdd(p, r, Set1(0x1.5554dcp-3f));
  p = MulAdd(p, r, Set1(0.5f));
  p = Add(Set1(1), MulAdd(Mul(r, r), p, r));
  return ZeroWhereLess(ScaleByExponent(p, shifted), x, low);
}

void ExpArray(const float* x, float* y, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(y + i, Exp(Load(x + i)));
  if (i < count) {
    float pad[kLanes];
    CopyIn(x + i, count - i, pad);
    Store(pad, Exp(Load(pad)));
    __builtin_memcpy(y + i, pad, (count - i) * sizeof(float));
  }
}

template <class T>
void ToF32(const void* src_bytes, float* dst, int64_t count) {
  const T* src = static_cast<const T*>(src_bytes);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(dst + i, LoadAs(src + i));
  if (i < count) {
    T in[kLanes];
    float out[kLanes];
    CopyIn(src + i, count - i, in);
    Store(out, LoadAs(in));
    __builtin_memcpy(dst + i, out, (count - i) * sizeof(float));
  }
}

template <class T>
void FromF32(const float* src, void* dst_bytes, int64_t count) {
  T* dst = static_cast<T*>(dst_bytes);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) StoreAs(dst + i, Load(src + i));
  if (i < count) {
    float in[kLanes];
    T out[kLanes];
    CopyIn(src + i, count - i, in);
    StoreAs(out, Load(in));
    __builtin_memcpy(dst + i, out, (count - i) * sizeof(T));
  }
}

template <class T>
void RoundArray(const float* src, float* dst, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    Store(dst + i, RoundAs(static_cast<const T*>(nullptr), Load(src + i)));
  if (i < count) {
    float pad[kLanes];
    CopyIn(src + i, count - i, pad);
    Store(pad, RoundAs(static_cast<const T*>(nullptr), Load(pad)));
    __builtin_memcpy(dst + i, pad, (count - i) * sizeof(float));
  }
}

constexpr int kGroup = 2 * kLanes;  // what LoadHalf cuts in two

// In the order of LoadHalf, zeros up to the next multiple of kGroup.
template <class T>
inline void WidenHalves(const T* src, float* dst, int64_t count) {
  int64_t i = 0;
  for (; i + kGroup <= count; i += kGroup) {
    Store(dst + i, LoadHalf<0>(src + i));
    Store(dst + i + kLanes, LoadHalf<1>(src + i));
  }
  if (i < count) {
    T in[kGroup] = {};
    __builtin_memcpy(in, src + i, (count - i) * sizeof(T));
    Store(dst + i, LoadHalf<0>(in));
    Store(dst + i + kLanes, LoadHalf<1>(in));
  }
}

// Activations for weights of type T: rounded for bf16, in the order of LoadHalf, zeros up to a multiple
// of 64.
template <class T>
void PackActivations(const float* x, float* packed, int64_t count) {
  int64_t i = 0;
  for (; i < count; i += kGroup) {
    float in[kGroup] = {};
    __builtin_memcpy(in, x + i, (count - i < kGroup ? count - i : kGroup) * sizeof(float));
    if constexpr (sizeof(T) == sizeof(float)) {
      __builtin_memcpy(packed + i, in, sizeof in);
    } else {
      T rounded[kGroup];
      StoreAs(rounded, Load(in));
      StoreAs(rounded + kLanes, Load(in + kLanes));
      Store(packed + i, LoadHalf<0>(rounded));
      Store(packed + i + kLanes, LoadHalf<1>(rounded));
    }
  }
  for (; i % 64 != 0; ++i) packed[i] = 0;
}

void RmsNormRow(const float* x, const float* weight, float* y, int64_t dim, float eps) {
  F squares = Zero();
  float x_pad[kLanes], w_pad[kLanes];
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) squares = MulAdd(Load(x + i), Load(x + i), squares);
  if (i < dim) {
    CopyIn(x + i, dim - i, x_pad);
    CopyIn(weight + i, dim - i, w_pad);
    squares = MulAdd(Load(x_pad), Load(x_pad), squares);
  }
  const F scale = Set1(1.0f / __builtin_sqrtf(Sum(squares) / static_cast<float>(dim) + eps));
  for (i = 0; i + kLanes <= dim; i += kLanes) Store(y + i, Mul(Mul(Load(x + i), scale), Load(weight + i)));
  if (i < dim) {
    Store(x_pad, Mul(Mul(Load(x_pad), scale), Load(w_pad)));
    __builtin_memcpy(y + i, x_pad, (dim - i) * sizeof(float));
  }
}

void Rotate(float* x, const float* cos, const float* sin, int64_t half) {
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const F a = Load(x + i), b = Load(x + half + i), c = Load(cos + i), s = Load(sin + i);
    Store(x + i, Sub(Mul(a, c), Mul(b, s)));
    Store(x + half + i, MulAdd(b, c, Mul(a, s)));
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

inline F Silu(F gate) { return Div(gate, Add(Set1(1), Exp(Sub(Zero(), gate)))); }

void SwiGluRow(const float* gate, const float* up, float* y, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(y + i, Mul(Silu(Load(gate + i)), Load(up + i)));
  if (i < count) {
    float g[kLanes], u[kLanes];
    CopyIn(gate + i, count - i, g);
    CopyIn(up + i, count - i, u);
    Store(g, Mul(Silu(Load(g)), Load(u)));
    __builtin_memcpy(y + i, g, (count - i) * sizeof(float));
  }
}

}  // namespace
}  // namespace lombard::internal::LOMBARD_ISA
