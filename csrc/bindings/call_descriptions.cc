#include "bindings/call_descriptions.h"

#include "bindings/references.h"
#include "calls/table.h"

namespace nspjax {
namespace {

nb::str text(std::string_view text) { return nb::str(text.data(), text.size()); }

nb::dict described(const calls::Named<calls::Parameter>& parameters) {
  nb::dict result;
  for (const calls::Parameter& parameter : parameters) {
    const bool array = parameter.kind == calls::Kind::kArray;
    const std::string axes =
        array ? std::string(parameter.axes) : concat(encoding_of(parameter.kind).n_integers);
    const std::string_view type = array ? parameter.type : "i32";
    for (const std::string& name : encoded_names(parameter)) {
      result[text(name)] = nb::make_tuple(text(type), text(axes));
    }
  }
  return result;
}

}  // namespace

nb::dict call_descriptions() {
  nb::dict result;
  for (const calls::Call& call : calls::kCalls) {
    nb::dict each, attributes;
    for (const calls::Attribute& attribute : call.attributes) {
      attributes[text(attribute.name)] = text(attribute.type);
    }
    each["operands"] = described(call.operands);
    each["attributes"] = attributes;
    each["results"] = described(call.results);
    result[text(call.name)] = each;
  }
  return result;
}

}  // namespace nspjax
