// Between the engine's values and their messages.
#pragma once

#include "absl/status/statusor.h"
#include "fabric/messages/control.pb.h"
#include "runtime/engine/sequence.h"

namespace lombard {

void ToMessage(const SequenceRequest& request, messages::SubmitSequence* out);
// What a peer sent is input: kInvalidArgument when the parameters are not valid ones.
absl::StatusOr<SequenceRequest> FromMessage(const messages::SubmitSequence& message);

void ToMessage(const SequenceOutput& output, messages::TokenEvent* out);
SequenceOutput FromMessage(const messages::TokenEvent& message);

}  // namespace lombard
