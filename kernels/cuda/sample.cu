// Every cut (min_p, top_k, top_p) and the draw is a place in one order, by weight, then by id: a cut keeps
// what lies before a place. So each is found alike, by the sum of what lies before it: the bits of the weight
// at that place come two at a time, each pass summing what reaches three candidates.
#include <cfloat>

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sample.h"

namespace lombard {
namespace {

constexpr int kThreads = 512;  // a guess, until measured
constexpr int kWarps = kThreads / 32;
using Units = unsigned long long;  // of 2^-40; a vocabulary's sum stays below 2^63

struct Scratch {
  Units sums[3 * kWarps];
  int32_t id;
  float logit;
};

LOMBARD_DEVICE Units UnitsOf(float weight) { return static_cast<Units>(weight * 0x1p40f + 0.5f); }

// Bits that order as floats do, NaN lowest with -inf; never 0.
LOMBARD_DEVICE uint32_t OrderOf(float logit) {
  const uint32_t bits = __float_as_uint(logit);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
LOMBARD_DEVICE float Clean(float logit) {
  if (logit != logit) return -INFINITY;
  return min(logit, FLT_MAX);
}

// All threads must call it, all get the sums.
template <int kCount>
LOMBARD_DEVICE void BlockSums(Units (&sums)[kCount], Scratch* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sums[i] += __shfl_xor_sync(kFullWarp, sums[i], step);
    if (lane == 0) scratch->sums[i * kWarps + warp] = sums[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    sums[i] = 0;
    for (int w = 0; w < kWarps; ++w) sums[i] += scratch->sums[i * kWarps + w];
  }
  __syncthreads();
}
LOMBARD_DEVICE Units BlockMax(Units x, Scratch* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = max(x, __shfl_xor_sync(kFullWarp, x, step));
  if (lane == 0) scratch->sums[warp] = x;
  __syncthreads();
  x = scratch->sums[0];
  for (int w = 1; w < kWarps; ++w) x = max(x, scratch->sums[w]);
  __syncthreads();
  return x;
}

// A place in the order: behind all heavier tokens and `equals` of those with just this weight.
struct Place {
  uint32_t bits = 0;  // of the weight
  Units before = 0;   // what the measure sums to over heavier tokens
  Units each = 0;     // what it gives to one of these
  Units equals = 0;
};

// The token at which the running sum of the measure first exceeds `target`. kByCount: each positive weight
// counts 1; otherwise its units. REQUIRES: the sum over all exceeds it.
template <bool kByCount>
LOMBARD_DEVICE Place Find(const float* weights, int count, Units target, Scratch* scratch) {
  Place place;
  for (int shift = 30; shift >= 0; shift -= 2) {
    Units sums[3] = {};
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const uint32_t bits = __float_as_uint(weights[i]);
      const Units units = kByCount ? (bits != 0 ? 1 : 0) : UnitsOf(weights[i]);
#pragma unroll
      for (int c = 0; c < 3; ++c) sums[c] += bits >= (place.bits | (c + 1u) << shift) ? units : 0;
    }
    BlockSums(sums, scratch);
    // Higher candidates are reached by less.
    for (int c = 2; c >= 0; --c) {
      if (sums[c] <= target) {
        place.before = sums[c];
        continue;
      }
      place.bits |= (c + 1u) << shift;
      break;
    }
  }
  place.each = kByCount ? 1 : UnitsOf(__uint_as_float(place.bits));
  place.equals = (target - place.before) / place.each;
  return place;
}

// Units of all tokens from the heaviest up to the place, its own included.
LOMBARD_DEVICE Units UnitsThrough(const float* weights, int count, const Place& place, Scratch* scratch) {
  Units sums[1] = {};
  for (int i = threadIdx.x; i < count; i += kThreads)
    sums[0] += __float_as_uint(weights[i]) > place.bits ? UnitsOf(weights[i]) : 0;
  BlockSums(sums, scratch);
  return sums[0] + (place.equals + 1) * UnitsOf(__uint_as_float(place.bits));
}

// The token, in the order of ids, at which the running sum of value(i) first exceeds `target`. Each thread
// has a run of ids, so that threads are in the order of ids too. -1: none.
template <class Value>
LOMBARD_DEVICE int FindById(int count, Units target, Value value, Scratch* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, each = (count + kThreads - 1) / kThreads;
  const int first = min(count, static_cast<int>(threadIdx.x) * each), end = min(count, first + each);
  Units mine = 0;
  for (int i = first; i < end; ++i) mine += value(i);
  Units through = mine;  // of this thread and those before it
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const Units other = __shfl_up_sync(kFullWarp, through, step);
    if (lane >= step) through += other;
  }
  if (lane == 31) scratch->sums[warp] = through;
  if (threadIdx.x == 0) scratch->id = -1;
  __syncthreads();
  for (int w = 0; w < warp; ++w) through += scratch->sums[w];
  Units before = through - mine;
  if (before <= target && target < through) {  // one thread's
    int i = first;
    for (; i < end - 1 && before + value(i) <= target; ++i) before += value(i);
    scratch->id = i;
  }
  __syncthreads();
  const int id = scratch->id;
  __syncthreads();
  return id;
}

// The best token after `bound`: order and complement of the id, so that the lowest id wins a tie.
LOMBARD_DEVICE Units KeyOf(float logit, int id) {
  return static_cast<Units>(OrderOf(logit)) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
LOMBARD_DEVICE Units BestBelow(const float* logits, int count, Units bound, Scratch* scratch) {
  Units best = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const Units key = KeyOf(Clean(logits[i]), i);
    if (key < bound) best = max(best, key);
  }
  return BlockMax(best, scratch);
}
LOMBARD_DEVICE int IdOf(Units key) { return static_cast<int>(0xffffffffu - static_cast<uint32_t>(key)); }

// The running sum reaches the share: it exceeds one unit less.
LOMBARD_DEVICE Units ShareOf(Units all, double share) {
  const double target = ceil(static_cast<double>(all) * share);
  return target < 1 ? 0 : min(static_cast<Units>(target), all) - 1;
}

LOMBARD_DEVICE int Draw(const GpuSampleRow& row, float* weights, int count, float best, Scratch* scratch) {
  for (int i = threadIdx.x; i < count; i += kThreads)
    weights[i] = expf((Clean(weights[i]) - best) * row.inverse_temperature);
  __syncthreads();
  Units kept[2] = {};  // units, and tokens
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const bool keeps = weights[i] > 0 && static_cast<double>(weights[i]) >= row.min_p;
    kept[0] += keeps ? UnitsOf(weights[i]) : 0, kept[1] += keeps ? 1 : 0;
  }
  BlockSums(kept, scratch);
  Units all = kept[0];
  const bool by_count = row.top_k > 0 && row.top_k < count;
  const bool whole = row.min_p == 0 && !by_count && row.top_p >= 1;
  if (by_count && static_cast<Units>(row.top_k) < kept[1])
    all = UnitsThrough(weights, count, Find<true>(weights, count, row.top_k - 1, scratch), scratch);
  if (row.top_p < 1) {
    const Units target = ShareOf(all, row.top_p);
    all = UnitsThrough(weights, count, Find<false>(weights, count, target, scratch), scratch);
  }
  const Units target = min(static_cast<Units>(row.uniform * static_cast<double>(all)), all - 1);
  if (whole) {  // nothing is cut: in the order of ids
    return FindById(
        count, target, [&](int i) { return UnitsOf(weights[i]); }, scratch);
  }
  const Place place = Find<false>(weights, count, target, scratch);
  return FindById(
      count, place.equals,
      [&](int i) { return __float_as_uint(weights[i]) == place.bits ? Units{1} : Units{0}; }, scratch);
}

__global__ void __launch_bounds__(kThreads) SampleKernel(const GpuSampleArgs p) {
  LOMBARD_SHARED(Scratch, scratch, 1);
  const GpuSampleRow row = p.rows[blockIdx.x];
  float* const logits = p.logits + int64_t{blockIdx.x} * p.vocabulary;
  GpuSampledToken* const token = p.tokens + blockIdx.x;
  const bool changes = row.change_end > row.change_begin;
  Units best = 0;
  if (row.logprobs >= 0 || !changes) best = BestBelow(logits, p.vocabulary, ~Units{0}, scratch);
  // Log-probabilities, while the logits are there. The sum is in units too.
  float log_sum = 0;  // and the highest logit
  if (row.logprobs >= 0) {
    const float highest = Clean(logits[IdOf(best)]);
    Units sums[1] = {};
    for (int i = threadIdx.x; i < p.vocabulary; i += kThreads)
      sums[0] += UnitsOf(expf(Clean(logits[i]) - highest));
    BlockSums(sums, scratch);
    log_sum = static_cast<float>(log(static_cast<double>(sums[0]) * 0x1p-40));
    Units bound = ~Units{0};
    for (int i = 0; i < row.logprobs; ++i) {
      const bool more = i < p.vocabulary;
      if (more) bound = i == 0 ? best : BestBelow(logits, p.vocabulary, bound, scratch);
      if (threadIdx.x == 0) {
        token->top_ids[i] = more ? IdOf(bound) : -1;
        token->top_logprobs[i] = more ? Clean(logits[IdOf(bound)]) - highest - log_sum : 0;
      }
    }
    log_sum += highest;
  }
  if (changes) {
    __syncthreads();  // everybody has read the logits
    for (int i = row.change_begin + static_cast<int>(threadIdx.x); i < row.change_end; i += kThreads) {
      GpuLogitChange& change = p.changes[i];
      float logit = change.before = Clean(logits[change.id]);
      if (change.repeated != 0 && row.repetition_penalty != 1)
        logit = logit > 0 ? min(logit / row.repetition_penalty, FLT_MAX) : logit * row.repetition_penalty;
      logits[change.id] = logit - change.subtract;
    }
    __syncthreads();
    best = BestBelow(logits, p.vocabulary, ~Units{0}, scratch);
  }
  int id = IdOf(best);
  const float highest = Clean(logits[id]);
  if (highest == -INFINITY) {
    if (threadIdx.x == 0) token->id = -1, token->logprob = 0;
    return;
  }
  __syncthreads();  // everybody has read the logits
  const bool drawn = row.inverse_temperature > 0;
  if (drawn) id = Draw(row, logits, p.vocabulary, highest, scratch);
  if (row.logprobs >= 0) {
    // A drawn token's logit is its weight by now.
    if (threadIdx.x == 0)
      scratch->logit = drawn ? highest + logf(logits[id]) / row.inverse_temperature : highest;
    __syncthreads();
    for (int i = row.change_begin + static_cast<int>(threadIdx.x); i < row.change_end; i += kThreads) {
      if (p.changes[i].id == id) scratch->logit = p.changes[i].before;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    token->id = id;
    token->logprob = row.logprobs >= 0 ? scratch->logit - log_sum : 0;
  }
}

}  // namespace

GpuError GpuSample(GpuStreamRef stream, const GpuSampleArgs& args) {
  return LOMBARD_LAUNCH(SampleKernel, stream,
                        {.grid = static_cast<unsigned>(args.row_count), .block = kThreads}, args);
}

}  // namespace lombard
