// What a call says when it refuses its arguments.
#pragma once

#include <string>

#include "base/error.h"

namespace moestro::testing {

// The message of the Error(usage) that `call` throws; "accepted" or "another kind" otherwise.
std::string refusal(const auto& call) {
    try {
        call();
        return "accepted";
    } catch (const Error& error) {
        return error.kind() == ErrorKind::usage ? error.what() : "another kind";
    }
}

}  // namespace moestro::testing
