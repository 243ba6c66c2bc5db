/* Tasks spread over threads that wait for the next call, each task done by one thread.
 *
 * A ticket holds the number of tasks that are left to take. It is 0 while a job is written, so a thread that comes late finds
 * nothing to take and touches nothing.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_THREADS 64
#define SPIN_NANOSECONDS 200000 /* about as long as a sampler takes from one call to the next */

/* One of `count` tasks; `memory` is `bytes` long, with anything in it, NULL where there is none to be had. */
typedef void (*task)(const void *context, int64_t index, void *memory);

typedef struct {
    task task;
    const void *context;
    size_t bytes;
} job;

static job current;
static int64_t ticket, done, sleeping;
static int started;
static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER, bed = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t alarm_clock = PTHREAD_COND_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)

/* A thread's memory, kept from call to call, because to get it anew takes as long as small tasks do. */
typedef struct {
    void *start;
    size_t bytes;
} store;

static __thread store own;
static pthread_key_t at_exit;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

static void give_back(void *start) { free(start); }

static void make_key(void) { pthread_key_create(&at_exit, give_back); }

static void *own_memory(size_t bytes) {
    if (own.bytes < bytes) {
        pthread_once(&key_once, make_key);
        free(own.start);
        own = (store){NULL, 0};
        if (!posix_memalign(&own.start, 64, bytes)) own.bytes = bytes;
        else own.start = NULL;
        pthread_setspecific(at_exit, own.start);
    }
    return own.start;
}

/* Tasks from the ticket until none is left. The job is read after one is taken, so it can't change meanwhile. */
static void work(const job *j, int64_t *left, int64_t *finished) {
    for (;;) {
        int64_t index = LOAD(*left);
        while (index > 0 && !__atomic_compare_exchange_n(left, &index, index - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        }
        if (index <= 0) break;
        j->task(j->context, index - 1, own_memory(j->bytes));
        __atomic_add_fetch(finished, 1, __ATOMIC_SEQ_CST);
    }
}

static void breathe(int64_t turn) {
#if defined(__x86_64__) || defined(__i386__)
    for (int i = 0; i < 16; i++) __builtin_ia32_pause();
#endif
    if (turn % 16 == 0) sched_yield(); /* whoever needs this core may have it */
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void *serve(void *unused) {
    for (;;) {
        work(&current, &ticket, &done);
        const int64_t began = now();
        for (int64_t turn = 1; !LOAD(ticket); turn++) {
            breathe(turn);
            if (turn % 8 == 0 && now() - began > SPIN_NANOSECONDS) {
                pthread_mutex_lock(&bed);
                __atomic_add_fetch(&sleeping, 1, __ATOMIC_SEQ_CST);
                while (!LOAD(ticket)) pthread_cond_wait(&alarm_clock, &bed);
                __atomic_sub_fetch(&sleeping, 1, __ATOMIC_SEQ_CST);
                pthread_mutex_unlock(&bed);
            }
        }
    }
    return unused;
}

/* A child process has none of its parent's threads. */
static void forget_threads(void) {
    started = 0;
    ticket = sleeping = 0;
    pthread_mutex_init(&owner, NULL);
    pthread_mutex_init(&bed, NULL);
    pthread_cond_init(&alarm_clock, NULL);
}

static void at_fork(void) { pthread_atfork(NULL, NULL, forget_threads); }

static void start_threads(int wanted) {
    pthread_once(&once, at_fork);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    /* Signals are for the threads of the program. */
    sigset_t every, before;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    for (pthread_t thread; started < wanted && !pthread_create(&thread, &attributes, serve, NULL); started++) {
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* All tasks, done when it returns. */
static void share(task task, const void *context, size_t bytes, int64_t count, int64_t threads) {
    const job j = {task, context, bytes};
    if (threads > count) threads = count;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > 1 && !pthread_mutex_trylock(&owner)) {
        /* More threads than are asked for may be there, from a call before; they would only help. */
        if (started < threads - 1) start_threads((int)threads - 1);
        current = j;
        done = 0;
        __atomic_store_n(&ticket, count, __ATOMIC_SEQ_CST);
        if (LOAD(sleeping)) {
            pthread_mutex_lock(&bed);
            pthread_cond_broadcast(&alarm_clock);
            pthread_mutex_unlock(&bed);
        }
        work(&current, &ticket, &done);
        for (int64_t turn = 1; LOAD(done) < count; turn++) breathe(turn);
        pthread_mutex_unlock(&owner);
        return;
    }
    int64_t left = count, finished = 0;
    work(&j, &left, &finished);
}
