// The threads that do a step together. Part of step.cpp, which alone includes it.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int kSpins = 4096;  // some 20 us that a thread waits awake: it is woken every few us in a step

// One of several equal parts of the work.
struct Part {
    int index, count;

    int first(int items) const { return int64_t(items) * index / count; }
    int last(int items) const { return int64_t(items) * (index + 1) / count; }
};

// Threads that do a step together. They wait awake only for a moment: the cores may be wanted by others.
class Team {
   public:
    // Throws `std::system_error` where the kernel gives no more threads.
    explicit Team(int size) : size_(size) {
        try {
            for (int index = 1; index < size; ++index) threads_.emplace_back([this, index] { help(index); });
        } catch (const std::system_error&) {
            dismiss();  // threads that nobody waits for would end the process
            throw;
        }
    }
    ~Team() { dismiss(); }
    int size() const { return size_; }

    // Runs `work` on all threads, this one included, and returns when all are done.
    void run(const std::function<void(Part)>& work) {
        work_ = &work;
        start();
        work({0, size_});
        barrier();
    }

    // Waits until all threads are here.
    void barrier() {
        if (size_ == 1) return;
        const uint32_t turn = passed_.load();
        if (arrived_.fetch_add(1) + 1 < size_) return wait_while(passed_, turn);
        arrived_ = 0;
        ++passed_;
        passed_.notify_all();
    }

   private:
    void help(int index) {
        for (uint32_t turn = 0;; ++turn) {
            wait_while(started_, turn);
            if (!work_) return;
            (*work_)({index, size_});
            barrier();
        }
    }

    void dismiss() {
        work_ = nullptr;
        start();
        for (auto& thread : threads_) thread.join();
    }

    void start() {
        ++started_;
        started_.notify_all();
    }

    static void wait_while(const std::atomic<uint32_t>& turn, uint32_t old) {
        for (int i = 0; i < kSpins && turn.load() == old; ++i) {
#if defined(__x86_64__)
            _mm_pause();
#endif
        }
        turn.wait(old);
    }

    const int size_;
    const std::function<void(Part)>* work_ = nullptr;
    std::atomic<uint32_t> started_{0}, passed_{0};
    std::atomic<int> arrived_{0};
    std::vector<std::thread> threads_;
};

}  // namespace
