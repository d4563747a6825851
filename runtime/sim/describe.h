// A line of text for what happens in a simulation.
#pragma once

#include <string>

#include "fabric/messages/control.pb.h"
#include "gmanager/membership.h"
#include "runtime/engine/step_work.h"

namespace lombard::sim {

std::string DescribeMessage(const messages::ControlMessage& message);
std::string DescribeMembers(const Membership& membership);
std::string DescribeWork(const StepWork& work);

}  // namespace lombard::sim
