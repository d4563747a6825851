// Checkpoints of named public shapes with random weights, for load tests: their speed and memory are those of
// the real model, their text is noise.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/model/model_config.h"
#include "runtime/model/safetensors_writer.h"

namespace lombard {

std::vector<std::string> PresetNames();

// Fills `dir` (created when missing) with a Hugging Face directory: weights, single or in shards of at most 5
// GB; config.json, generation_config.json, tokenizer.json (byte-level BPE without merges),
// tokenizer_config.json. The same preset and seed give the same bytes on every machine.
//
// Weights are about normal with variance 1 / columns, and smaller by sqrt(2 * layers) where they write to the
// residual stream, so that activations and logits stay near 1 at any depth.
//
// kInvalidArgument: no such preset (the message lists them). kAlreadyExists: `dir` has model files.
// kResourceExhausted: not enough room; known in advance where the file system says, and nothing is left
// behind. config.json is written last, so a directory that was interrupted does not load.
absl::Status CreateModel(const std::string& preset, const std::string& dir, uint64_t seed);

// Every tensor that a model of this config stores, in file order.
std::vector<TensorSpec> TensorsOf(const ModelConfig& config);

}  // namespace lombard
