// The worker pool of a compiled model: one launch = `num_tiles` independent tiles shared by all threads.
//
// The calling thread works too. Threads claim chunks of tiles from one 64-bit word, [sequence | tiles left], by
// compare-and-swap: a worker that slept through a launch fails its swap, because the sequence has moved on, and one
// that sees no tiles left has nothing to do. So no launch ever waits for a thread that has not claimed work.
// Chunks shrink as the launch drains (guided self-scheduling). Between launches workers spin for some microseconds,
// then sleep on a futex: an idle process uses no CPU.
//
// One thread at a time may call wl_parallel on a pool. In a forked child there are no workers; launches still
// complete there, on the caller alone.
#define _GNU_SOURCE
#include <emmintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef void (*wl_kernel)(void *const *args, const int64_t *dims, int64_t begin, int64_t end, void *scratch);

enum {
    CACHE_LINE = 64,
    PAUSES_PER_CHECK = 64,  // how often a spinning worker looks at the clock, and a waiting caller gives up its time slice
    SPIN_NANOSECONDS = 50000,  // longer than the gap between two launches of a step, shorter than that of two steps
};

typedef struct wl_pool wl_pool;

typedef struct {
    wl_pool *pool;
    void *scratch;
    pthread_t thread;
} worker;

struct wl_pool {
    // Written by the caller before it publishes a launch; read by workers after they saw its sequence.
    _Alignas(CACHE_LINE) _Atomic(wl_kernel) kernel;
    _Atomic(void *const *) args;
    _Atomic(const int64_t *) dims;
    _Atomic uint32_t num_tiles;
    _Alignas(CACHE_LINE) _Atomic uint64_t claim;  // sequence << 32 | tiles left
    _Alignas(CACHE_LINE) _Atomic uint32_t tiles_done;
    _Alignas(CACHE_LINE) _Atomic uint32_t sleepers;
    _Atomic int stop;
    _Alignas(CACHE_LINE) int threads;
    int started;  // workers running, threads - 1
    pid_t owner;
    worker *workers;  // [threads]; [0] holds the caller's scratch
};

static uint32_t sequence_of(uint64_t claim) { return (uint32_t)(claim >> 32); }
static uint32_t tiles_left(uint64_t claim) { return (uint32_t)claim; }

// The futex word is the sequence, the upper half of the claim (x86 is little-endian).
static uint32_t *sequence_word(wl_pool *pool) { return (uint32_t *)&pool->claim + 1; }

static void sleep_while(wl_pool *pool, uint32_t sequence) {
    syscall(SYS_futex, sequence_word(pool), FUTEX_WAIT_PRIVATE, sequence, NULL, NULL, 0);
}

static void wake_all(wl_pool *pool) {
    syscall(SYS_futex, sequence_word(pool), FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// Claims and runs chunks until the launch of `claim` has no unclaimed tile, or is over.
static void work(wl_pool *pool, void *scratch, uint64_t claim) {
    const uint32_t sequence = sequence_of(claim);
    while (sequence_of(claim) == sequence && tiles_left(claim) > 0) {
        wl_kernel kernel = atomic_load_explicit(&pool->kernel, memory_order_relaxed);
        void *const *args = atomic_load_explicit(&pool->args, memory_order_relaxed);
        const int64_t *dims = atomic_load_explicit(&pool->dims, memory_order_relaxed);
        const uint32_t total = atomic_load_explicit(&pool->num_tiles, memory_order_relaxed);
        const uint32_t left = tiles_left(claim), share = left / (2 * (uint32_t)pool->threads);
        const uint32_t chunk = share > 0 ? share : 1;
        // Success proves that the four fields above belong to this launch: it cannot end while a tile is unclaimed.
        if (!atomic_compare_exchange_weak_explicit(&pool->claim, &claim, claim - chunk, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        const int64_t begin = (int64_t)total - left;
        kernel(args, dims, begin, begin + chunk, scratch);
        atomic_fetch_add_explicit(&pool->tiles_done, chunk, memory_order_release);
        claim = atomic_load_explicit(&pool->claim, memory_order_acquire);
    }
}

// Returns the claim word once its sequence differs from `seen`, or 0 as soon as the pool stops.
static uint64_t next_launch(wl_pool *pool, uint32_t seen) {
    const int64_t deadline = nanoseconds() + SPIN_NANOSECONDS;
    for (;;) {
        for (int pause = 0; pause < PAUSES_PER_CHECK; pause++) {
            const uint64_t claim = atomic_load_explicit(&pool->claim, memory_order_acquire);
            if (sequence_of(claim) != seen) return atomic_load(&pool->stop) ? 0 : claim;
            _mm_pause();
        }
        if (nanoseconds() < deadline) continue;
        // Either the caller sees this sleeper after publishing, or the futex sees the new sequence.
        atomic_fetch_add(&pool->sleepers, 1);
        sleep_while(pool, seen);
        atomic_fetch_sub(&pool->sleepers, 1);
    }
}

static void *worker_main(void *argument) {
    worker *self = argument;
    uint32_t seen = 0;
    for (uint64_t claim; (claim = next_launch(self->pool, seen)) != 0;) {
        seen = sequence_of(claim);
        work(self->pool, self->scratch, claim);
    }
    return NULL;
}

static uint64_t publish(wl_pool *pool, uint32_t tiles) {
    uint32_t sequence = sequence_of(atomic_load_explicit(&pool->claim, memory_order_relaxed)) + 1;
    if (sequence == 0) sequence = 1;  // 0 is what workers start from, and next_launch's answer for "stop"
    const uint64_t claim = (uint64_t)sequence << 32 | tiles;
    atomic_store(&pool->claim, claim);
    if (atomic_load(&pool->sleepers) > 0) wake_all(pool);
    return claim;
}

// Runs tiles [0, num_tiles) of `kernel` and returns when all are done.
void wl_parallel(wl_pool *pool, wl_kernel kernel, void *const *args, const int64_t *dims, int64_t num_tiles) {
    if (num_tiles <= 0) return;
    if (num_tiles == 1 || pool->started == 0) {
        kernel(args, dims, 0, num_tiles, pool->workers[0].scratch);
        return;
    }
    atomic_store_explicit(&pool->kernel, kernel, memory_order_relaxed);
    atomic_store_explicit(&pool->args, args, memory_order_relaxed);
    atomic_store_explicit(&pool->dims, dims, memory_order_relaxed);
    atomic_store_explicit(&pool->num_tiles, (uint32_t)num_tiles, memory_order_relaxed);
    atomic_store_explicit(&pool->tiles_done, 0, memory_order_relaxed);
    work(pool, pool->workers[0].scratch, publish(pool, (uint32_t)num_tiles));
    for (uint32_t pause = 1; atomic_load_explicit(&pool->tiles_done, memory_order_acquire) != num_tiles; pause++) {
        if (pause % PAUSES_PER_CHECK == 0)
            sched_yield();
        else
            _mm_pause();
    }
}

// Stops the workers and frees the pool. Safe in a forked child, which has no workers to stop.
void wl_pool_destroy(wl_pool *pool) {
    if (pool == NULL) return;
    if (getpid() == pool->owner && pool->started > 0) {
        atomic_store(&pool->stop, 1);
        publish(pool, 0);
        for (int i = 1; i <= pool->started; i++) pthread_join(pool->workers[i].thread, NULL);
    }
    for (int i = 0; pool->workers != NULL && i < pool->threads; i++) free(pool->workers[i].scratch);
    free(pool->workers);
    free(pool);
}

// A pool of `threads` threads in all, the caller included, each with `scratch_bytes` of memory for kernels.
// Returns NULL when memory or threads are refused by the system.
wl_pool *wl_pool_create(int threads, int64_t scratch_bytes) {
    wl_pool *pool = aligned_alloc(CACHE_LINE, sizeof(wl_pool));
    if (pool == NULL) return NULL;
    *pool = (wl_pool){.threads = threads > 1 ? threads : 1, .owner = getpid()};
    pool->workers = calloc((size_t)pool->threads, sizeof(worker));
    const size_t scratch = ((size_t)scratch_bytes + 4095) / 4096 * 4096 + 4096;
    for (int i = 0; pool->workers != NULL && i < pool->threads; i++) {
        worker *self = &pool->workers[i];
        *self = (worker){.pool = pool, .scratch = aligned_alloc(4096, scratch)};
        if (self->scratch == NULL) break;
        if (i > 0) {
            if (pthread_create(&self->thread, NULL, worker_main, self) != 0) break;
            pool->started = i;
        }
    }
    if (pool->started == pool->threads - 1 && pool->workers != NULL && pool->workers[0].scratch != NULL) return pool;
    wl_pool_destroy(pool);
    return NULL;
}
