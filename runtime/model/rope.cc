#include "runtime/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/status.h"

namespace lombard {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

std::vector<double> PlainFrequencies(double theta, int head_dim) {
  std::vector<double> freq(head_dim / 2);
  for (int i = 0; i < head_dim / 2; ++i) freq[i] = std::pow(theta, -2.0 * i / head_dim);
  return freq;
}

absl::StatusOr<double> Positive(const JsonFields& fields, const char* key,
                                std::optional<double> fallback = {}) {
  ASSIGN_OR_RETURN(const double value, fields.Number(key, fallback));
  if (!(value > 0)) return fields.Wrong(key, "a number above 0", *fields.Find(key));
  return value;
}

// Llama 3.1: frequencies whose wavelength is long against the original context are divided by `factor`, short
// ones kept, and those between are blended linearly in (original context / wavelength).
absl::Status ScaleLlama3(const JsonFields& fields, double original_context, std::vector<double>* freq) {
  ASSIGN_OR_RETURN(const double factor, Positive(fields, "factor"));
  ASSIGN_OR_RETURN(const double low, Positive(fields, "low_freq_factor"));
  ASSIGN_OR_RETURN(const double high, Positive(fields, "high_freq_factor"));
  if (!(high > low))
    return fields.Wrong("high_freq_factor", "a number above low_freq_factor",
                        *fields.Find("high_freq_factor"));
  for (double& f : *freq) {
    const double turns = original_context * f / kTwoPi;  // over the original context
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    f = kept * f + (1 - kept) * f / factor;
  }
  return absl::OkStatus();
}

// YaRN (Peng et al. 2023, section 3.2 and 3.4): the pair i turns original_context * theta^(-2i/d) / 2pi times
// over the original context. Pairs that turn more than beta_fast times are kept, fewer than beta_slow are
// divided by `factor`, with a ramp over the pair index between. Attention gets sharper by 0.1 ln(factor) + 1,
// folded into cos and sin.
absl::Status ScaleYarn(const JsonFields& fields, double original_context, double theta, int head_dim,
                       RopeParameters* rope) {
  ASSIGN_OR_RETURN(const double factor, Positive(fields, "factor"));
  ASSIGN_OR_RETURN(const double beta_fast, Positive(fields, "beta_fast", 32));
  ASSIGN_OR_RETURN(const double beta_slow, Positive(fields, "beta_slow", 1));
  if (beta_fast < beta_slow)
    return fields.Wrong("beta_fast", "a number not below beta_slow", *fields.Find("beta_fast"));
  if (theta == 1)
    return absl::InvalidArgumentError(absl::StrCat(fields.where(), ": yarn needs a rope_theta other than 1"));
  ASSIGN_OR_RETURN(const bool truncate, fields.Bool("truncate", true));

  const auto pair_of_turns = [&](double turns) {
    return head_dim * std::log(original_context / (turns * kTwoPi)) / (2 * std::log(theta));
  };
  double low = pair_of_turns(beta_fast), high = pair_of_turns(beta_slow);
  if (truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;  // no division by zero; the ramp becomes a step
  for (int i = 0; i < head_dim / 2; ++i) {
    const double divided = std::clamp((i - low) / (high - low), 0.0, 1.0);
    rope->inv_freq[i] *= (1 - divided) + divided / factor;
  }

  const auto sharpening = [&](double scale) {
    return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1;
  };
  ASSIGN_OR_RETURN(const double mscale, fields.Number("mscale", 0));
  ASSIGN_OR_RETURN(const double mscale_all_dim, fields.Number("mscale_all_dim", 0));
  const double inferred =
      mscale != 0 && mscale_all_dim != 0 ? sharpening(mscale) / sharpening(mscale_all_dim) : sharpening(1);
  ASSIGN_OR_RETURN(const double attention_factor, Positive(fields, "attention_factor", inferred));
  rope->attention_factor = static_cast<float>(attention_factor);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RopeParameters> ReadRope(const JsonFields& config, int head_dim, int max_position_embeddings) {
  // Newer files gather everything in rope_parameters; older ones have rope_theta beside rope_scaling.
  ASSIGN_OR_RETURN(const auto parameters, config.Object("rope_parameters"));
  ASSIGN_OR_RETURN(const auto scaling, config.Object("rope_scaling"));
  const JsonFields& fields = parameters ? *parameters : scaling ? *scaling : config;
  std::string type = "default";
  if (parameters || scaling) {
    ASSIGN_OR_RETURN(const std::string older, fields.String("type", "default"));
    ASSIGN_OR_RETURN(type, fields.String("rope_type", older));
  }

  ASSIGN_OR_RETURN(const double outer_theta, Positive(config, "rope_theta", 10000));
  ASSIGN_OR_RETURN(const double theta, Positive(fields, "rope_theta", outer_theta));
  for (const JsonFields* place : {&config, &fields}) {
    ASSIGN_OR_RETURN(const double fraction, place->Number("partial_rotary_factor", 1));
    if (fraction != 1) {
      return absl::UnimplementedError(
          absl::StrCat(place->where(), ": partial_rotary_factor ", fraction,
                       " is not supported (every dimension of a head is rotated)"));
    }
  }

  RopeParameters rope{.inv_freq = PlainFrequencies(theta, head_dim)};
  if (type == "default") return rope;
  if (type == "linear") {
    ASSIGN_OR_RETURN(const double factor, Positive(fields, "factor"));
    for (double& f : rope.inv_freq) f /= factor;
    return rope;
  }
  ASSIGN_OR_RETURN(double original_context,
                   Positive(fields, "original_max_position_embeddings", max_position_embeddings));
  ASSIGN_OR_RETURN(original_context, Positive(config, "original_max_position_embeddings", original_context));
  if (type == "llama3") {
    RETURN_IF_ERROR(ScaleLlama3(fields, original_context, &rope.inv_freq));
    return rope;
  }
  if (type == "yarn") {
    RETURN_IF_ERROR(ScaleYarn(fields, original_context, theta, head_dim, &rope));
    return rope;
  }
  return absl::UnimplementedError(absl::StrCat(fields.where(), ": rope type \"", type,
                                               "\" is not supported (default, linear, llama3 and yarn are)"));
}

}  // namespace lombard
