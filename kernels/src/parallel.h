// Runs numbered tasks on a few threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "context.h"

namespace tpdm {

// Call task(0) … task(n_tasks - 1), each once, in no particular order. A task's result may not depend on which thread
// ran it; then no result depends on the number of threads. The first exception of a task is thrown here, after all threads ended.
//
// Threads are started for each call: that costs tens of microseconds, and unlike a pool survives a fork.
template <class Task>
void parallel_for(std::int64_t n_tasks, const Context& context, const Task& task) {
  const int n_workers = static_cast<int>(std::min<std::int64_t>(context.n_threads, n_tasks));
  if (n_workers <= 1) {
    for (std::int64_t i = 0; i < n_tasks; ++i) task(i);
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_guard;
  const auto work = [&] {
    try {
      for (std::int64_t i = next++; i < n_tasks; i = next++) task(i);
    } catch (...) {
      next = n_tasks;
      const std::lock_guard<std::mutex> lock(failure_guard);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(n_workers - 1));
  try {
    for (int i = 1; i < n_workers; ++i) threads.emplace_back(work);
  } catch (const std::system_error&) {
    // The system grants no more threads: those there are do the work.
  }
  work();
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace tpdm
