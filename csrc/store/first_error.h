// Several things that are done whatever the others meet.
#pragma once

#include <exception>

namespace nspjax {

class FirstError {
 public:
  void of(const auto& fn) {
    try {
      fn();
    } catch (...) {
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::exception_ptr error_;
};

}  // namespace nspjax
