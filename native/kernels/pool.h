// Threads that wait for work. Which thread takes which task changes nothing: every task writes its own memory.
#pragma once
#include <cstdint>

// A function and what it knows, without templates of the standard library: code compiled for one instruction set must not
// be what another one links.
struct Task {
  void (*call)(const void* known, int64_t index);
  const void* known;
};

template <class F>
static inline Task task_of(const F& f) {
  return Task{[](const void* known, int64_t index) { (*(const F*)known)(index); }, &f};
}

// Runs task 0 ... count - 1 on up to `threads` threads, the caller's included; returns when all are done. Throws
// std::bad_alloc on the caller's thread when a task did on any: tasks not begun by then are left out.
// One caller at a time; a second waits. A child made by fork has no threads and starts its own.
void parallel_for(int64_t count, int threads, Task task);

// From now on tasks run on the threads of an OpenMP runtime, by its `GOMP_parallel`; null: on own threads. Where the caller's
// own code runs on such threads too, they look for work for a while before they sleep, and would fight with ours for cores.
void use_openmp(void (*parallel)(void (*call)(void*), void* data, unsigned threads, unsigned flags));

// Memory of the calling thread, 64-byte aligned, at least `bytes` long, contents undefined; valid until the next call
// with the same slot on this thread.
void* scratch(int slot, int64_t bytes);

// Where the border of such memory is: all that decides which of its bytes are written over.
struct Border {
  int64_t height, width, rows, columns, top, left, taps;
};

// The same in slots of their own, for memory whose border stays zero: cleared when it is new or its border differs from
// the last call's with this slot.
void* bordered(int slot, int64_t bytes, const Border& border);
