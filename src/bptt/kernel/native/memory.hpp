// Memory besides the tensors: counted, since a budget of memory has to hold it too.
#pragma once

#include <cstddef>

void *take(size_t bytes);  // aligned to a cache line; null if there is none
void give(void *memory);
