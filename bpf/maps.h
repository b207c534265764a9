/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps, and how their entries are counted, named and let go of.
 */
#ifndef SL_MAPS_H
#define SL_MAPS_H

#include "splice.h"

#define MAX_CONNS 65536 /* the agent may set another number when it loads */
#define SL_GONE 0x80000000u
#define NO_LIMIT 0x7fffffff /* bytes: as good as none */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sl_settings);
} sl_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CONNS);
	__type(key, struct sl_endpoint_key);
	__type(value, struct sl_endpoint);
} sl_endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CONNS);
	__type(key, __u64);
	__type(value, struct sl_flow);
} sl_flows SEC(".maps");

/* Identities whose backend end has not shown up yet; value: the flow. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CONNS);
	__type(key, struct sl_ident);
	__type(value, __u64);
} sl_announced SEC(".maps");

/* The sockets. Key: end_key(). */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 2 * MAX_CONNS);
	__type(key, __u64);
	__type(value, __u64);
} sl_socks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sl_end);
} sl_ends SEC(".maps");

/* The backends' ends by cookie; empty unless sl_ioctl needs it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CONNS);
	__type(key, __u64);
	__type(value, struct sl_member);
} sl_members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sl_counts);
} sl_outcomes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sl_byte_counts);
} sl_bytes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} sl_events SEC(".maps");

static const struct sl_flow empty_flow;
/* Nothing but a mention, so that the types get into BTF and from there into Go. */
const struct sl_event *const sl_event_type = NULL;
const enum sl_omits sl_omits_type = 0;

static __always_inline struct sl_settings *config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&sl_config, &zero);
}

static __always_inline void count(enum sl_outcome outcome)
{
	__u32 zero = 0;
	struct sl_counts *all = bpf_map_lookup_elem(&sl_outcomes, &zero);

	if (!all)
		return;
	switch (outcome) {
	case sl_undecided:
		break;
#define X(name)                                      \
	case sl_##name:                              \
		__sync_fetch_and_add(&all->name, 1); \
		break;
		SL_OUTCOMES(X)
#undef X
	}
}

/* A flow has one outcome, whoever finds it first. */
static __always_inline void decide(struct sl_flow *flow, enum sl_outcome outcome)
{
	if (flow->counted || __sync_lock_test_and_set(&flow->counted, 1))
		return;
	flow->reason = outcome;
	count(outcome);
}

/*
 * The cookie of the agent's socket is unique among all sockets of this kernel
 * since it started, so it names the flow, and with the side each of its ends.
 * Nobody gets an end under it but through an identity that was announced.
 */
static __always_inline __u64 end_key(__u64 flow, enum sl_side side)
{
	return flow << 1 | side;
}

static __always_inline struct sl_endpoint_key endpoint_key(const struct sl_ident *ident)
{
	struct sl_endpoint_key key = {};

	__builtin_memcpy(key.ip, ident->backend_ip, sizeof(key.ip));
	key.port = ident->backend_port;
	return key;
}

static __always_inline struct sl_endpoint *endpoint_of(const struct sl_ident *ident)
{
	struct sl_endpoint_key key = endpoint_key(ident);

	return bpf_map_lookup_elem(&sl_endpoints, &key);
}

/*
 * How many bytes that `from` has redirected the other end has not read; never
 * too few. Each read notes copied_seq first and then adds to what was received,
 * so whoever looks in the opposite order may miss a read, but no byte of TCP that
 * is in what was received. A reader that has bypassed recvmsg(2) without ever
 * being redirected to makes nonsense of the difference: never more than there is.
 */
static __always_inline __u64 unread_by(struct sl_half *reader, __u64 received, const struct sl_half *from)
{
	__u64 spliced = from->spliced;
	__s64 unread = spliced - received + (reader->copied_seq - reader->first_seq);

	if (unread < 0)
		return 0;
	return (__u64)unread < spliced ? unread : spliced;
}

/* Reads with the order that unread_by asks for, on every architecture. */
static __always_inline __u64 received_by(struct sl_half *reader)
{
	return __sync_fetch_and_add(&reader->received, 0);
}

static __always_inline bool tell(__u64 flow, __u64 received, enum sl_sign sign, enum sl_reader how)
{
	struct sl_event event = { .flow = flow, .received = received, .sign = sign, .how = how };

	return !bpf_ringbuf_output(&sl_events, &event, sizeof(event), 0);
}

/*
 * The flow's entry is used by both ends, and before the backend's end has
 * joined, by the announcement in its place. The last one to let go deletes it.
 */
static __always_inline void release_flow(struct sl_flow *flow, __u64 id)
{
	if (__sync_fetch_and_sub(&flow->ends, 1) == 1)
		bpf_map_delete_elem(&sl_flows, &id);
}

/* For who is none of them. The entry may become another flow's while we look. */
static __always_inline struct sl_flow *hold_flow(__u64 id)
{
	struct sl_flow *flow = bpf_map_lookup_elem(&sl_flows, &id);
	__u32 ends, was;

	if (!flow)
		return NULL;
	ends = flow->ends;
	for (int i = 0; i < 8; i++) {
		if (!ends)
			return NULL;
		was = __sync_val_compare_and_swap(&flow->ends, ends, ends + 1);
		if (was == ends) {
			if (flow->id == id)
				return flow;
			release_flow(flow, flow->id);
			return NULL;
		}
		ends = was;
	}
	return NULL;
}

/*
 * Writers and state changes run under their socket's lock. Readers do not:
 * sl_recv runs after recvmsg has let go of it, and the socket may close
 * meanwhile. Hash entries are reused at once, so a late reader could write into
 * somebody else's flow: enter_flow keeps the entry in place until leave_flow.
 */
static __always_inline void leave_flow(struct sl_end *end)
{
	struct sl_flow *flow;
	__u64 id = end->flow;

	if (__sync_fetch_and_sub(&end->state, 1) != (SL_GONE | 1))
		return;
	if (__sync_lock_test_and_set(&end->released, 1))
		return;
	flow = bpf_map_lookup_elem(&sl_flows, &id);
	if (flow)
		release_flow(flow, id);
}

static __always_inline struct sl_flow *enter_flow(struct sl_end *end)
{
	struct sl_flow *flow = NULL;
	__u64 id = end->flow;

	if (!(__sync_fetch_and_add(&end->state, 1) & SL_GONE))
		flow = bpf_map_lookup_elem(&sl_flows, &id);
	if (!flow)
		leave_flow(end);
	return flow;
}

#endif
