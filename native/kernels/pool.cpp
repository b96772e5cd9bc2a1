#include "pool.h"

#include <immintrin.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace {

// How long a thread looks for work or for the end of it before it sleeps: some 20 to 50 microseconds, about as long as
// waking takes.
constexpr int SPINS = 1000;

struct Job {
  Task task = {};
  int64_t count = 0;
  std::atomic<int64_t> next{0};
  std::atomic<bool> no_memory{false};  // an exception must not leave a thread that others wait for

  void start(int64_t tasks, Task what) {
    task = what;
    count = tasks;
    next.store(0, std::memory_order_relaxed);
    no_memory.store(false, std::memory_order_relaxed);
  }
  void work() {
    try {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task.call(task.known, i);
    } catch (const std::bad_alloc&) {
      no_memory = true;
      next.store(count, std::memory_order_relaxed);
    }
  }
  void end() const {
    if (no_memory) throw std::bad_alloc();
  }
};

// Lives as long as the process: its threads wait in it, and are ended with the process.
struct Pool {
  std::mutex caller;  // one parallel_for at a time
  std::mutex mutex;
  std::condition_variable wake, done;
  Job job;
  std::atomic<int64_t> round{0};
  int helpers_wanted = 0, helpers_taken = 0;
  std::atomic<int> busy{0};
  int threads = 0;
  pid_t owner = getpid();

  void helper() {
    int64_t seen = 0;
    for (;;) {
      for (int i = 0; i < SPINS && round.load(std::memory_order_relaxed) == seen; ++i) _mm_pause();
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, [&] { return round != seen && helpers_taken < helpers_wanted; });
      seen = round;
      ++helpers_taken;
      ++busy;
      lock.unlock();
      job.work();
      lock.lock();
      if (--busy == 0) done.notify_all();
      lock.unlock();
    }
  }

  void run(int64_t count, int wanted, Task task) {
    std::lock_guard<std::mutex> one(caller);
    std::unique_lock<std::mutex> lock(mutex);
    start_threads(wanted - 1);
    job.start(count, task);
    helpers_wanted = wanted - 1;
    helpers_taken = 0;
    ++round;
    lock.unlock();
    wake.notify_all();
    job.work();
    for (int i = 0; i < SPINS && busy.load(std::memory_order_relaxed); ++i) _mm_pause();
    lock.lock();
    helpers_wanted = 0;  // who has not woken by now finds nothing to do
    done.wait(lock, [&] { return busy == 0; });
    job.end();
  }

  // Up to `wanted`; what the system does not give is done without.
  void start_threads(int wanted) {
    try {
      for (; threads < wanted; ++threads) std::thread([this] { helper(); }).detach();
    } catch (const std::system_error&) {
    }
  }
};

Pool* pool() {
  static std::mutex guard;
  static Pool* current = new Pool;
  std::lock_guard<std::mutex> lock(guard);
  if (current->owner != getpid()) current = new Pool;  // after fork: the parent's threads are not here
  return current;
}

// OpenMP's threads do not survive a fork either, and cannot be started anew.
struct OpenMP {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  pid_t owner = 0;
};
OpenMP openmp;

struct Scratch {
  static constexpr int slots = 16, bordered_slots = 3;
  void* memory[slots + bordered_slots] = {};
  int64_t sizes[slots + bordered_slots] = {};
  Border borders[bordered_slots] = {};
  ~Scratch() {
    for (void* each : memory) std::free(each);
  }
};

}  // namespace

void parallel_for(int64_t count, int threads, Task task) {
  if (threads > count) threads = (int)count;
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) task.call(task.known, i);
    return;
  }
  if (!openmp.parallel || openmp.owner != getpid()) return pool()->run(count, threads, task);
  Job job;
  job.start(count, task);
  openmp.parallel([](void* known) { ((Job*)known)->work(); }, &job, (unsigned)threads, 0);
  job.end();
}

void use_openmp(void (*parallel)(void (*)(void*), void*, unsigned, unsigned)) {
  openmp.parallel = parallel;
  openmp.owner = getpid();
}

static Scratch& own_scratch() {
  thread_local Scratch own;
  return own;
}

void* scratch(int slot, int64_t bytes) {
  Scratch& own = own_scratch();
  if (own.sizes[slot] < bytes) {
    std::free(own.memory[slot]);
    int64_t rounded = (bytes + 4095) / 4096 * 4096;
    own.memory[slot] = std::aligned_alloc(64, rounded);
    own.sizes[slot] = own.memory[slot] ? rounded : 0;
    if (!own.memory[slot]) throw std::bad_alloc();
  }
  return own.memory[slot];
}

static bool same(const Border& a, const Border& b) {
  return a.height == b.height && a.width == b.width && a.rows == b.rows && a.columns == b.columns && a.top == b.top &&
         a.left == b.left && a.taps == b.taps;
}

void* bordered(int slot, int64_t bytes, const Border& border) {
  Scratch& own = own_scratch();
  const bool grows = own.sizes[Scratch::slots + slot] < bytes;
  void* memory = scratch(Scratch::slots + slot, bytes);
  if (grows || !same(own.borders[slot], border)) std::memset(memory, 0, bytes);
  own.borders[slot] = border;
  return memory;
}
