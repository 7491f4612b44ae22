#include "bind/tensor_view.h"

#include <limits>

#include "base/error.h"

namespace moestro::bind {

std::int32_t size32(std::int64_t value, const char* argument) {
    require(value >= 0 && value <= std::numeric_limits<std::int32_t>::max(), ErrorKind::usage, "argument ", argument,
            ": expected a size between 0 and 2147483647; got ", value);
    return static_cast<std::int32_t>(value);
}

namespace detail {
namespace {

std::string describe(const Shape& shape) {
    std::string text = "[";
    if (shape.leading) text += "...";
    for (std::size_t i = 0; i < shape.sizes.size(); ++i) {
        if (i > 0 || shape.leading) text += ", ";
        text += shape.sizes[i] == kAny ? "any" : std::to_string(shape.sizes[i]);
    }
    return text + "]";
}

std::string describe(const Expected& expected) {
    return text("argument ", expected.argument, ": expected a", expected.writable ? " writable" : "",
                expected.layout == Layout::contiguous ? " C-contiguous " : " row-contiguous ", expected.dtype,
                " array of shape ", describe(expected.shape));
}

std::string type_name(py::handle object) {
    return py::str(py::type::handle_of(object).attr("__name__"));
}

std::string describe(const py::array& array) {
    std::string shape = "[";
    for (py::ssize_t i = 0; i < array.ndim(); ++i) shape += (i > 0 ? ", " : "") + std::to_string(array.shape(i));
    return std::string(py::str(array.dtype())) + " " + shape + "]";
}

// numpy's own word on why it cannot look at an object becomes part of ours. Interrupts pass through.
py::array from_dlpack(py::handle object, const Expected& expected) {
    require(py::hasattr(object, "__dlpack__"), ErrorKind::usage, describe(expected), "; got ", type_name(object));
    try {
        return py::module_::import("numpy").attr("from_dlpack")(object);
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_Exception)) throw;
        const std::string why = py::str(error.value());
        fail(ErrorKind::usage, describe(expected), "; got ", type_name(object),
             " that numpy.from_dlpack cannot read: ", why);
    }
}

bool shape_fits(const py::array& array, const Shape& shape) {
    const auto dimensions = static_cast<std::size_t>(array.ndim());
    if (shape.leading ? dimensions < shape.sizes.size() : dimensions != shape.sizes.size()) return false;
    const std::size_t skipped = dimensions - shape.sizes.size();
    for (std::size_t i = 0; i < shape.sizes.size(); ++i) {
        if (shape.sizes[i] != kAny && shape.sizes[i] != array.shape(static_cast<py::ssize_t>(skipped + i)))
            return false;
    }
    return true;
}

bool rows_are_contiguous(const py::array& array) {
    if (array.ndim() != 2 || array.size() == 0) return array.ndim() == 2;
    const py::ssize_t item = array.itemsize(), columns = array.shape(1);
    const bool dense_row = columns == 1 || array.strides(1) == item;
    const bool rows_apart = array.shape(0) == 1 || (array.strides(0) >= columns * item && array.strides(0) % item == 0);
    return dense_row && rows_apart;
}

// What is wrong with the array's memory, or null.
const char* layout_fault(const py::array& array, const Expected& expected) {
    const bool contiguous = (array.flags() & py::array::c_style) != 0;
    if (expected.layout == Layout::contiguous && !contiguous) return "which is not C-contiguous";
    if (expected.layout == Layout::row_stride && !rows_are_contiguous(array)) return "whose rows are not contiguous";
    if (reinterpret_cast<std::uintptr_t>(array.data()) % expected.alignment != 0) return "whose memory is misaligned";
    if (expected.writable && !array.writeable()) return "which is read-only";
    return nullptr;
}

}  // namespace

py::array checked(py::handle object, const Expected& expected) {
    py::array array =
        py::isinstance<py::array>(object) ? py::reinterpret_borrow<py::array>(object) : from_dlpack(object, expected);
    // Described only when wrong: this runs for every argument of every operation.
    if (!expected.is_dtype(array) || !shape_fits(array, expected.shape))
        fail(ErrorKind::usage, describe(expected), "; got ", describe(array));
    if (const char* fault = layout_fault(array, expected))
        fail(ErrorKind::usage, describe(expected), "; got ", describe(array), ", ", fault);
    return array;
}

void fail_overlap(const char* output, const char* input) {
    fail(ErrorKind::usage, "argument ", output, ": it shares memory with ", input,
         ", which is read while it is written; give it memory of its own");
}

}  // namespace detail
}  // namespace moestro::bind
