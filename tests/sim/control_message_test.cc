// Control messages are input: the fuzz entry's corpus of plausible conversations, random mutations of it, and
// random well-formed messages with colliding numbers.
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "fabric/messages/control.pb.h"
#include "tests/support/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lombard {
namespace {

using google::protobuf::FieldDescriptor;

// Fills a message with small numbers, so that ids, tickets and epochs meet.
void FillRandom(google::protobuf::Message* message, std::mt19937_64& random) {
  const google::protobuf::Reflection* reflection = message->GetReflection();
  const google::protobuf::Descriptor* descriptor = message->GetDescriptor();
  const google::protobuf::OneofDescriptor* oneof =
      descriptor->oneof_decl_count() > 0 ? descriptor->oneof_decl(0) : nullptr;
  const FieldDescriptor* chosen = oneof != nullptr ? oneof->field(random() % oneof->field_count()) : nullptr;
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (oneof != nullptr && field->containing_oneof() == oneof ? field != chosen : random() % 8 == 0)
      continue;
    const uint64_t number = random() % 16 == 0 ? random() : random() % 12;
    for (int times = field->is_repeated() ? random() % 4 : 1; times > 0; --times) {
      switch (field->cpp_type()) {
        case FieldDescriptor::CPPTYPE_MESSAGE:
          FillRandom(field->is_repeated() ? reflection->AddMessage(message, field)
                                          : reflection->MutableMessage(message, field),
                     random);
          break;
        case FieldDescriptor::CPPTYPE_UINT32:
          if (!field->is_repeated()) reflection->SetUInt32(message, field, static_cast<uint32_t>(number));
          break;
        case FieldDescriptor::CPPTYPE_UINT64:
          if (field->is_repeated()) break;
          // Loan ids of every creditor, epochs of the first incarnation, and anything else.
          reflection->SetUInt64(message, field,
                                field->name() == "id" ? (random() % 4 << 40) + number / 3
                                : field->name() == "epoch"
                                    ? (random() % 4 != 0 ? uint64_t{1} << 32 : 0) + number / 8
                                    : number);
          break;
        case FieldDescriptor::CPPTYPE_BOOL:
          if (!field->is_repeated()) reflection->SetBool(message, field, number % 2 == 0);
          break;
        case FieldDescriptor::CPPTYPE_ENUM:
          if (!field->is_repeated()) reflection->SetEnumValue(message, field, static_cast<int>(number % 5));
          break;
        case FieldDescriptor::CPPTYPE_DOUBLE:
          if (!field->is_repeated()) reflection->SetDouble(message, field, static_cast<double>(number) - 2);
          break;
        default:
          break;
      }
    }
  }
}

// One conversation in the fuzz entry's form.
std::string RandomConversation(uint64_t seed, int records) {
  std::mt19937_64 random(seed);
  std::string text;
  for (int i = 0; i < records; ++i) {
    std::string body;
    uint8_t from = static_cast<uint8_t>(random());  // mostly engine steps and answers
    if (random() % 2 == 0) {
      from = random() % 4;
      messages::ControlMessage message;
      FillRandom(&message, random);
      // Rarely a larger one, since it makes all earlier senders stale.
      if (random() % 500 != 0) message.set_incarnation(random() % 50 == 0 ? 0 : 1);
      body = message.SerializeAsString();
      body.resize(std::min<size_t>(body.size(), 255));
    }
    text.push_back(static_cast<char>(from));
    text.push_back(static_cast<char>(body.size()));
    text += body;
  }
  return text;
}

TEST(ControlMessageTest, WellFormedNonsenseDoesNoHarm) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const std::string text = RandomConversation(seed, 200);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  }
}

TEST(ControlMessageTest, MutatedConversationsDoNoHarm) {
  const google::protobuf::LogSilencer silencer;  // broken UTF-8 is meant here
  std::vector<std::string> corpus = {"", "\x01", std::string("\x07\x00\x05\x00\x08\x00", 6)};
  for (uint64_t seed = 0; seed < 40; ++seed) corpus.push_back(RandomConversation(1000 + seed, 30));
  SCOPED_TRACE("seed 1");
  RunFuzzCorpus(LLVMFuzzerTestOneInput, corpus, 100, 1);
}

}  // namespace
}  // namespace lombard
