// Vectors that hold what a budget was told, and no more.
#pragma once

#include <cstddef>
#include <vector>

namespace moestro {

// Resizes to `size` elements, their values unspecified. Unlike resize() alone it never takes up to twice as much when
// it grows, nor the old and the new memory at the same time.
template <class T>
void resize_exactly(std::vector<T>& values, std::size_t size) {
    if (values.capacity() < size) {
        values = std::vector<T>();
        values.reserve(size);
    }
    values.resize(size);
}

}  // namespace moestro
