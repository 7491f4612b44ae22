// Checked views of arrays that Python hands over: numpy arrays as they are, anything else with __dlpack__ through
// numpy.from_dlpack, both without a copy. A view that was handed out has the element type, shape, contiguity and
// writability that were asked for; everything else is an Error(usage) naming the argument, what it should have been
// and what it is.
//
// Views are made and destroyed with the GIL held; their data may be used without it.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bind/bind.h"

namespace moestro::bind {

inline constexpr std::int64_t kAny = -1;  // a dimension of any size

// What an argument must look like.
struct Shape {
    std::vector<std::int64_t> sizes;
    bool leading = false;  // any number of dimensions may come before `sizes`

    static Shape exactly(std::vector<std::int64_t> sizes) { return {std::move(sizes), false}; }
    static Shape ending_in(std::vector<std::int64_t> sizes) { return {std::move(sizes), true}; }
};

enum class Layout {
    contiguous,  // C order, no gaps
    row_stride,  // 2-D, rows contiguous, any distance between them: a column slice of a wider array is fine
};

template <class T>
struct View {
    T* data = nullptr;
    std::vector<std::int64_t> shape;
    std::int64_t row_stride = 0;  // elements from one row of the last dimension to the next
    py::array owner;              // keeps the memory

    std::int64_t last() const { return shape.back(); }
    std::int64_t size() const {
        std::int64_t count = 1;
        for (const std::int64_t extent : shape) count *= extent;
        return count;
    }
    std::int64_t rows() const { return last() == 0 ? 0 : size() / last(); }  // all but the last dimension
    const void* begin() const { return data; }
    const void* end() const { return data + (rows() == 0 ? 0 : (rows() - 1) * row_stride + last()); }
};

// A size that the core holds in 32 bits. Throws Error(usage) naming it when it is negative or too large.
std::int32_t size32(std::int64_t value, const char* argument);

namespace detail {

struct Expected {
    const char* argument;
    const char* dtype;
    bool (*is_dtype)(py::handle);
    std::size_t alignment;
    const Shape& shape;
    Layout layout;
    bool writable;
};
py::array checked(py::handle object, const Expected& expected);

template <class T>
inline constexpr const char* kDtype = nullptr;
template <>
inline constexpr const char* kDtype<float> = "float32";
template <>
inline constexpr const char* kDtype<std::int32_t> = "int32";
template <>
inline constexpr const char* kDtype<std::int64_t> = "int64";
template <>
inline constexpr const char* kDtype<std::uint8_t> = "uint8";
template <>
inline constexpr const char* kDtype<std::uint64_t> = "uint64";

template <class T>
View<T> view(py::handle object, const char* argument, const Shape& shape, Layout layout, bool writable) {
    using Element = std::remove_const_t<T>;
    View<T> view;
    view.owner = checked(object, {argument, kDtype<Element>, &py::array_t<Element, 0>::check_, alignof(Element), shape,
                                  layout, writable});
    view.data = static_cast<T*>(const_cast<void*>(view.owner.data()));
    view.shape.assign(view.owner.shape(), view.owner.shape() + view.owner.ndim());
    const bool strided = layout == Layout::row_stride && view.shape[0] > 1;
    view.row_stride = strided ? view.owner.strides(0) / static_cast<std::int64_t>(sizeof(Element)) : view.last();
    return view;
}

[[noreturn]] void fail_overlap(const char* output, const char* input);

}  // namespace detail

template <class T>
View<const T> input(py::handle object, const char* argument, const Shape& shape) {
    return detail::view<const T>(object, argument, shape, Layout::contiguous, false);
}

template <class T>
View<T> output(py::handle object, const char* argument, const Shape& shape, Layout layout = Layout::contiguous) {
    return detail::view<T>(object, argument, shape, layout, true);
}

// Throws Error(usage) when an output shares memory with an input that is still read while it is written.
template <class A, class B>
void require_apart(const View<A>& out, const char* output, const View<B>& in, const char* input) {
    if (out.begin() < in.end() && in.begin() < out.end()) detail::fail_overlap(output, input);
}

}  // namespace moestro::bind
