#include "runtime/worker/convert.h"

#include "base/status.h"

namespace lombard {

void ToMessage(const SequenceRequest& request, messages::SubmitSequence* out) {
  out->set_arrival_us(request.id.arrival_us);
  out->set_number(request.id.number);
  out->mutable_prompt()->Assign(request.prompt.begin(), request.prompt.end());
  out->mutable_output()->Assign(request.output.begin(), request.output.end());
  out->set_sample_index(request.sample_index);
  out->set_cache_salt(request.cache_salt);
  if (request.lost_home.has_value()) {
    out->mutable_lost_home()->set_instance(Value(request.lost_home->instance));
    out->mutable_lost_home()->set_incarnation(Value(request.lost_home->incarnation));
  }
  if (request.prefix.has_value()) {
    out->mutable_prefix()->set_instance(Value(request.prefix->holder));
    out->mutable_prefix()->set_tokens(request.prefix->tokens);
  }
  const SamplingParams& from = request.sampling;
  messages::Sampling& to = *out->mutable_sampling();
  to.set_max_tokens(from.max_tokens);
  to.set_min_tokens(from.min_tokens);
  to.set_temperature(from.temperature);
  to.set_top_k(from.top_k);
  to.set_top_p(from.top_p);
  to.set_min_p(from.min_p);
  to.set_seed(from.seed);
  to.set_repetition_penalty(from.repetition_penalty);
  to.set_presence_penalty(from.presence_penalty);
  to.set_frequency_penalty(from.frequency_penalty);
  if (from.logprobs.has_value()) to.set_logprobs(*from.logprobs);
  to.mutable_stop()->Assign(from.stop.begin(), from.stop.end());
  to.mutable_stop_token_ids()->Assign(from.stop_token_ids.begin(), from.stop_token_ids.end());
  to.set_ignore_eos(from.ignore_eos);
  to.set_skip_special_tokens(from.skip_special_tokens);
}

absl::StatusOr<SequenceRequest> FromMessage(const messages::SubmitSequence& message) {
  SequenceRequest request{.id = {.arrival_us = message.arrival_us(), .number = message.number()},
                          .prompt = {message.prompt().begin(), message.prompt().end()},
                          .output = {message.output().begin(), message.output().end()},
                          .sampling = {},
                          .sample_index = message.sample_index(),
                          .cache_salt = message.cache_salt()};
  if (message.has_lost_home()) {
    request.lost_home =
        LostHome{InstanceId{message.lost_home().instance()}, Incarnation{message.lost_home().incarnation()}};
  }
  if (message.has_prefix()) {
    request.prefix = {.holder = InstanceId{message.prefix().instance()}, .tokens = message.prefix().tokens()};
  }
  const messages::Sampling& from = message.sampling();
  SamplingParams& to = request.sampling;
  to.max_tokens = from.max_tokens();
  to.min_tokens = from.min_tokens();
  to.temperature = from.temperature();
  to.top_k = from.top_k();
  to.top_p = from.top_p();
  to.min_p = from.min_p();
  to.seed = from.seed();
  to.repetition_penalty = from.repetition_penalty();
  to.presence_penalty = from.presence_penalty();
  to.frequency_penalty = from.frequency_penalty();
  if (from.has_logprobs()) to.logprobs = from.logprobs();
  to.stop = {from.stop().begin(), from.stop().end()};
  to.stop_token_ids = {from.stop_token_ids().begin(), from.stop_token_ids().end()};
  to.ignore_eos = from.ignore_eos();
  to.skip_special_tokens = from.skip_special_tokens();
  RETURN_IF_ERROR(to.Validate());
  return request;
}

void ToMessage(const SequenceOutput& output, messages::TokenEvent* out) {
  out->set_arrival_us(output.id.arrival_us);
  out->set_number(output.id.number);
  if (output.token.has_value()) out->set_token(*output.token);
  out->set_index(output.index);
  out->set_recovered(output.recovered);
  out->set_logprob(output.logprob);
  for (const auto& [token, logprob] : output.top_logprobs) {
    messages::TopLogprob& top = *out->add_top_logprobs();
    top.set_token(token);
    top.set_logprob(logprob);
  }
  out->set_finished(output.finished);
  out->set_finish_reason(output.finish_reason);
  out->set_text(output.text);
  out->set_error_code(static_cast<int>(output.error.code()));
  out->set_error(std::string(output.error.message()));
}

SequenceOutput FromMessage(const messages::TokenEvent& message) {
  SequenceOutput output{
      .id = {.arrival_us = message.arrival_us(), .number = message.number()},
      .token = std::nullopt,
      .index = message.index(),
      .recovered = message.recovered(),
      .logprob = message.logprob(),
      .top_logprobs = {},
      .finished = message.finished(),
      .finish_reason = message.finish_reason(),
      .text = message.text(),
      .error = absl::Status(static_cast<absl::StatusCode>(message.error_code()), message.error())};
  if (message.has_token()) output.token = message.token();
  for (const messages::TopLogprob& top : message.top_logprobs())
    output.top_logprobs.emplace_back(top.token(), top.logprob());
  return output;
}

}  // namespace lombard
