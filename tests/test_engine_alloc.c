/*
 * test_engine_alloc.c - every allocation of the engine and of the log fails, one at a time and for good; on a real
 * directory those of the store, too. What must be true is in fault_run.c and fault_plan.c.
 *
 * TXNFS_FAULT, TXNFS_SCRIPT and TXNFS_STORE repeat one run; TXNFS_LONG=1 tries every allocation,
 * TXNFS_PART=I/N a part of them, TXNFS_PROGRESS=1 tells how far it is.
 */
#include "tests/fault_private.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

/* Scripts whose allocations are much alike. */
#define RARELY 11

/* With the sanitizers each run takes longer. */
#ifdef __SANITIZE_ADDRESS__
#define ALL 7
#else
#define ALL 1
#endif

/* Every step-th allocation, beginning at another one each time. */
static void add(struct run_cases *c, struct run_plan *p, enum fault_mode mode, uint64_t step)
{
	static uint64_t from;

	for (uint64_t n = 1 + from++ % step; n <= run_plan_calls(p, FAULT_alloc); n += step)
		run_cases_add(c, p, (struct fault){FAULT_alloc, n, FAULT_ENOMEM, mode});
}

static void play(bool real, uint64_t stride)
{
	const char *one = getenv("TXNFS_FAULT"), *only = getenv("TXNFS_SCRIPT"), *store = getenv("TXNFS_STORE");
	struct run_plan *plans[32];
	struct run_cases c = {0};
	struct fault f;
	int n = 0;

	if (store ? strcmp(store, real ? "dir" : "sim") : one && real)
		skip();
	for (const struct run_script *s = run_scripts; s->name; s++) {
		uint64_t step = s->rarely ? stride * RARELY : stride;
		struct run_plan *p;

		if (only && strcmp(only, s->name))
			continue;
		p = plans[n++] = run_plan(s, real);
		if (one) {
			assert_int_equal(fault_parse(one, &f), 0);
			print_message("%llu hits\n", (unsigned long long)run_once(p, &f));
			continue;
		}
		for (enum fault_mode mode = FAULT_ONCE; mode <= FAULT_ALWAYS; mode++)
			add(&c, p, mode, getenv("TXNFS_LONG") ? 1 + stride / 8 : mode == FAULT_TWICE ? step * 3 : step);
	}
	if (!one)
		run_cases_play(&c, real ? "every allocation fails, on a real directory" : "every allocation fails");
	while (n)
		run_plan_free(plans[--n]);
}

static void every_allocation_fails(void **state UNUSED)
{
	play(false, ALL);
}

static void allocations_fail_on_a_real_directory(void **state UNUSED)
{
	play(true, 41);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_allocation_fails),
		cmocka_unit_test(allocations_fail_on_a_real_directory),
	};

	int failed;

	run_command = argv[0];
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	failed = cmocka_run_group_tests_name("engine_alloc", tests, NULL, NULL);
	run_cases_total();
	return failed;
}
