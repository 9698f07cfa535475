// Memory besides the tensors: counted, since a budget of memory has to hold it too.
#pragma once

#include <cstddef>

// From how many bytes on a block of memory is the system's own, and leaves no hole in the heap: what a budget
// of memory is held to is how far the process grows.
constexpr size_t large = 1 << 20;

void *take(size_t bytes);  // aligned to a cache line; null if there is none
void give(void *memory);
void count_as_taken(size_t bytes);  // what a longer call takes: who counts a short one is to know of it
