#include "harness.h"

#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "agent/loop.h"
#include "agent/wire.h"

static char order[16];
static struct loop *loop;
static struct loop_timer a, b, c;

static void mark(void *context)
{
    strcat(order, context);
}

static void rearm(void *context)
{
    mark(context);
    loop_set_timer(loop, &a, 0, mark, "a");
    loop_clear_timer(loop, &c);
}

static void test_timers(void)
{
    CU_ASSERT_FATAL(loop_open(&loop) == ERR_NONE);
    loop_fake_clock(loop, 1000);
    loop_set_timer(loop, &a, 30, mark, "a");
    loop_set_timer(loop, &b, 10, rearm, "b");
    loop_set_timer(loop, &c, 30, mark, "c");
    CU_ASSERT_EQUAL(loop_once(loop, 0), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(order, "");
    loop_fake_clock(loop, 1010);
    CU_ASSERT_EQUAL(loop_once(loop, 0), ERR_NONE);
    CU_ASSERT_EQUAL(loop_once(loop, 0), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(order, "ba"); /* a moved up, c was cleared */
    loop_fake_clock(loop, 2000);
    CU_ASSERT_EQUAL(loop_once(loop, 0), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(order, "ba");
    CU_ASSERT(!a.active && !b.active && !c.active);
    CU_ASSERT_EQUAL(loop_wall_s(loop), 2);
    loop_close(loop);
}

static struct loop_watch w1, w2;
static int calls;

static void on_one(void *context, uint32_t events)
{
    (void)context;
    (void)events;
    calls++;
    loop_delete(loop, &w1);
    loop_delete(loop, &w2); /* due in the same round: it must not be called any more */
}

static void test_watches(void)
{
    int pipes[2][2];
    CU_ASSERT_FATAL(loop_open(&loop) == ERR_NONE);
    CU_ASSERT_FATAL(pipe(pipes[0]) == 0 && pipe(pipes[1]) == 0);
    CU_ASSERT_EQUAL(loop_add(loop, &w1, pipes[0][0], EPOLLIN, on_one, NULL), ERR_NONE);
    CU_ASSERT_EQUAL(loop_add(loop, &w1, pipes[0][0], EPOLLIN, on_one, NULL), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(loop_add(loop, &w2, pipes[1][0], EPOLLIN, on_one, NULL), ERR_NONE);
    CU_ASSERT(write(pipes[0][1], "x", 1) == 1 && write(pipes[1][1], "x", 1) == 1);
    CU_ASSERT_EQUAL(loop_once(loop, 1000), ERR_NONE);
    CU_ASSERT_EQUAL(calls, 1);
    CU_ASSERT_EQUAL(loop_once(loop, 0), ERR_NONE);
    CU_ASSERT_EQUAL(calls, 1);
    for (int i = 0; i < 2; i++) {
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
    loop_close(loop);
}

static void test_wire(void)
{
    struct wire m, back;
    uint8_t bytes[512];
    char text[64];
    size_t size, at = 0, list_bytes;
    const void *list;
    wire_init(&m, WIRE_GENERATE, 77);
    wire_put_u64(&m, WIRE_K_SEED, UINT64_MAX);
    wire_put_text(&m, WIRE_K_PATH, "/a/b");
    wire_put_f64(&m, WIRE_K_TOP_P, 0.25);
    wire_put_bytes(&m, WIRE_K_STOP, "one\0two\0", 8);
    wire_put_text(&m, WIRE_K_URL, "");
    CU_ASSERT_EQUAL_FATAL(wire_encode(&m, bytes, sizeof bytes, &size), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(wire_decode(bytes, size, &back), ERR_NONE);
    CU_ASSERT(back.kind == WIRE_GENERATE && back.id == 77 && back.fields == 4);
    CU_ASSERT_EQUAL(wire_u64(&back, WIRE_K_SEED, 0), UINT64_MAX);
    CU_ASSERT_EQUAL(wire_u64(&back, WIRE_K_BYTES, 5), 5);
    CU_ASSERT_EQUAL(wire_f64(&back, WIRE_K_TOP_P, 0), 0.25);
    CU_ASSERT(wire_text(&back, WIRE_K_PATH, text, sizeof text) && !strcmp(text, "/a/b"));
    CU_ASSERT(!wire_text(&back, WIRE_K_PATH, text, 4));
    CU_ASSERT_FATAL(wire_view(&back, WIRE_K_STOP, &list, &list_bytes));
    CU_ASSERT_STRING_EQUAL(wire_list_next(list, list_bytes, &at), "one");
    CU_ASSERT_STRING_EQUAL(wire_list_next(list, list_bytes, &at), "two");
    CU_ASSERT_PTR_NULL(wire_list_next(list, list_bytes, &at));
    for (size_t cut = 0; cut < size; cut++)
        CU_ASSERT(wire_decode(bytes, cut, &back) != ERR_NONE);
    for (size_t i = 0; i < size * 8; i++) { /* any flipped bit: an answer or an error, never a crash */
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        if (wire_decode(bytes, size, &back) == ERR_NONE)
            CU_ASSERT(back.fields <= WIRE_FIELDS);
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
    }
}

RUN_SUITE("loop and wire", {"timers", test_timers}, {"watches", test_watches}, {"frames", test_wire})
