//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The kernel half of Sluice: the decrypted bytes of a connection go straight
 * from the agent's sendmsg(2) into the backend's recvmsg(2), and back, without
 * a trip through TCP. The programs:
 *
 *   sl_sockops  says which two sockets are the ends of one connection
 *   sl_msg      decides for each write: redirect it, or leave it to TCP
 *   sl_recv     sees each read: keeps the books that sl_msg decides by
 *   sl_adjust   sees who consumes TCP bytes in another way than recvmsg(2)
 *   sl_ioctl    on kernels that need it: sees who asks FIONREAD
 *
 * The rule above all: whenever anything is unknown, unusual or full, the bytes
 * go through TCP, which was there before and carries the connection as if this
 * file did not exist. Every verdict below is argued from that.
 *
 * Lifetime. Entries of sl_socks are never deleted or overwritten here: deleting
 * one throws away the redirected bytes that its owner has not read yet. The
 * socket's own close removes it.
 */
#include "splice.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define MAX_CONNS 65536
#define SL_GONE 0x80000000u
#define PEER_ELSEWHERE 64 /* so many connections in a row without a peer */
#define TRY_AGAIN 64 /* then one in so many is still tried */

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
const struct sl_blind *const sl_blind_type = NULL;
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
	if (flow->counted)
		return;
	flow->counted = 1;
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

static __always_inline enum sl_outcome outcome_of_insert(long err)
{
	switch (err) {
	case -16: /* EBUSY: a socket has room for one sk_msg program */
		return sl_foreign_owner;
	case -7: /* E2BIG */
	case -12: /* ENOMEM */
		return sl_map_full;
	default:
		return sl_not_supported;
	}
}

/* The verifier wants the context read word by word; clang would rather not. */
#define word(field) (*(volatile __u32 *)&(field))
#define barrier() __asm__ volatile("" ::: "memory")

static __always_inline void local_ip(__u32 ip[4], struct bpf_sock_ops *ctx)
{
	if (ctx->family == AF_INET) {
		ip[0] = ip[1] = 0;
		ip[2] = bpf_htonl(0xffff);
		ip[3] = ctx->local_ip4;
		barrier();
		return;
	}
	ip[0] = word(ctx->local_ip6[0]);
	ip[1] = word(ctx->local_ip6[1]);
	ip[2] = word(ctx->local_ip6[2]);
	ip[3] = word(ctx->local_ip6[3]);
}

static __always_inline void remote_ip(__u32 ip[4], struct bpf_sock_ops *ctx)
{
	if (ctx->family == AF_INET) {
		ip[0] = ip[1] = 0;
		ip[2] = bpf_htonl(0xffff);
		ip[3] = ctx->remote_ip4;
		barrier();
		return;
	}
	ip[0] = word(ctx->remote_ip6[0]);
	ip[1] = word(ctx->remote_ip6[1]);
	ip[2] = word(ctx->remote_ip6[2]);
	ip[3] = word(ctx->remote_ip6[3]);
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
 * The flow's entry is used by both ends, and before the backend's end has
 * joined, by the announcement in its place. The last one to let go deletes it.
 */
static __always_inline void release_flow(struct sl_flow *flow, __u64 id)
{
	if (__sync_fetch_and_sub(&flow->ends, 1) == 1)
		bpf_map_delete_elem(&sl_flows, &id);
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

/*
 * Just before the SYN, inside connect(2): the mark is cheap to ask, so that
 * everybody else's connections pass here at the price of a comparison; the
 * process id says whose mark it is, so that two agents on one machine leave
 * each other's connections alone, and nobody else announces anything.
 */
static __always_inline void on_connect(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct sl_settings *cfg = config();

	if (!cfg || sk->mark != cfg->mark || cfg->stopped)
		return;
	if (bpf_get_current_task_btf()->tgid != cfg->owner)
		return;
	bpf_sk_storage_get(&sl_ends, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
}

/* How many redirected bytes a receive buffer bears: see sl_msg. */
static __always_inline __u32 room(struct tcp_sock *tp)
{
	return (__u32)((struct sock *)tp)->sk_rcvbuf >> 1;
}

static __always_inline enum sl_outcome announce(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
						struct sl_end *end)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 id = bpf_get_socket_cookie(ctx);
	__u64 key = end_key(id, sl_agent);
	struct sl_ident *ident = &end->ident;
	struct sl_endpoint *endpoint;
	struct sl_flow *flow;
	long err;

	local_ip(ident->agent_ip, ctx);
	remote_ip(ident->backend_ip, ctx);
	ident->agent_port = ctx->local_port;
	ident->backend_port = bpf_htonl(ctx->remote_port);
	ident->agent_seq = ctx->snd_nxt;
	ident->backend_seq = ctx->rcv_nxt;

	endpoint = endpoint_of(ident);
	if (!endpoint)
		return sl_endpoint_unknown;
	if (endpoint->policy == sl_off)
		return sl_policy_off;
	if (!tp || tp->is_mptcp)
		return sl_mptcp;
	/* What such a reader minds is being in a sockmap at all. */
	if (endpoint->policy == sl_auto && endpoint->reader == sl_by_fionread)
		return sl_reader_fionread;
	/*
	 * A socket in a sockhash sends more slowly through TCP than one that is
	 * not. Towards an endpoint whose peers are never found here, do not pay
	 * that; a rare probe notices when it changes.
	 */
	if (endpoint->policy == sl_auto && endpoint->unjoined >= PEER_ELSEWHERE &&
	    __sync_fetch_and_add(&endpoint->skipped, 1) % TRY_AGAIN)
		return sl_peer_elsewhere;

	if (bpf_map_update_elem(&sl_flows, &id, &empty_flow, BPF_NOEXIST))
		return sl_map_full;
	flow = bpf_map_lookup_elem(&sl_flows, &id);
	if (!flow)
		return sl_map_full;
	flow->ends = 2;
	flow->agent_port = ident->agent_port;
	flow->agent.copied_seq = ident->backend_seq;
	flow->agent.next_seq = ident->agent_seq;
	/* The agent need not earn it: it reads its own legs by recvmsg(2) only. */
	flow->agent.reader = sl_by_recv;
	flow->agent.room = room(tp);
	__builtin_memcpy(flow->endpoint, endpoint->endpoint, sizeof(flow->endpoint));
	__builtin_memcpy(flow->route, endpoint->route, sizeof(flow->route));
	if (endpoint->policy == sl_auto)
		flow->backend.reader = endpoint->reader;

	err = bpf_sock_hash_update(ctx, &sl_socks, &key, BPF_NOEXIST);
	if (err) {
		bpf_map_delete_elem(&sl_flows, &id);
		return outcome_of_insert(err);
	}
	/* From here on the backend's end can find the flow: announce last. */
	end->flow = id;
	if (bpf_map_update_elem(&sl_announced, ident, &id, BPF_NOEXIST)) {
		end->flow = 0;
		bpf_map_delete_elem(&sl_flows, &id);
		return sl_map_full;
	}
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return sl_undecided;
}

/*
 * The SYN-ACK has come, our ACK has not left: the backend's end cannot exist
 * before this returns, and no byte has been sent. So it joins after us or not
 * at all.
 */
static __always_inline void on_active(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct sl_settings *cfg = config();
	struct sl_end *end;

	if (!cfg || sk->mark != cfg->mark)
		return;
	end = bpf_sk_storage_get(&sl_ends, sk, NULL, 0);
	if (!end)
		return;
	end->side = sl_agent;
	end->reason = announce(ctx, sk, end);
	count(end->reason);
}

static __always_inline enum sl_outcome join(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
					    const struct sl_ident *ident, struct sl_flow *flow, __u64 id)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 key = end_key(id, sl_backend), cookie = bpf_get_socket_cookie(ctx);
	struct sl_settings *cfg = config();
	struct sl_member member = { .flow = id };
	struct sl_end *end;
	long err;

	if (!tp || tp->is_mptcp)
		return sl_mptcp;
	if (((struct sock *)tp)->__sk_common.skc_flags & 1UL << kernel_enum(enum sock_flags, SOCK_ZEROCOPY))
		return sl_zerocopy;
	end = bpf_sk_storage_get(&sl_ends, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!end)
		return sl_map_full;
	flow->backend.copied_seq = ident->agent_seq;
	flow->backend.next_seq = ident->backend_seq;
	if (cfg && cfg->fionread) {
		member.endpoint = endpoint_key(ident);
		if (bpf_map_update_elem(&sl_members, &cookie, &member, BPF_NOEXIST))
			return sl_map_full;
	}
	err = bpf_sock_hash_update(ctx, &sl_socks, &key, BPF_NOEXIST);
	if (err) {
		bpf_map_delete_elem(&sl_members, &cookie);
		return outcome_of_insert(err);
	}
	end->side = sl_backend;
	end->ident = *ident;
	end->flow = id;
	flow->joined = 1;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return sl_undecided;
}

/*
 * Every accepted connection of the node comes by, and one lookup sends it on
 * its way unless precisely this connection was announced. Who deletes the
 * announcement takes over its share of the flow: us, or the agent's close.
 */
static __always_inline void on_passive(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct sl_ident ident = {};
	struct sl_endpoint *endpoint;
	enum sl_outcome outcome;
	struct sl_flow *flow;
	__u64 id, *found;

	remote_ip(ident.agent_ip, ctx);
	local_ip(ident.backend_ip, ctx);
	ident.agent_port = bpf_htonl(ctx->remote_port);
	ident.backend_port = ctx->local_port;
	ident.agent_seq = ctx->rcv_nxt;
	ident.backend_seq = ctx->snd_nxt;

	found = bpf_map_lookup_elem(&sl_announced, &ident);
	if (!found)
		return;
	id = *found;
	if (bpf_map_delete_elem(&sl_announced, &ident))
		return;
	flow = bpf_map_lookup_elem(&sl_flows, &id);
	if (!flow)
		return;
	endpoint = endpoint_of(&ident);
	if (endpoint)
		endpoint->unjoined = 0;
	outcome = join(ctx, sk, &ident, flow, id);
	if (outcome != sl_undecided) {
		decide(flow, outcome);
		release_flow(flow, id);
	}
}

/* Why a flow that ends was never spliced. */
static __always_inline enum sl_outcome reason_of(const struct sl_flow *flow)
{
	if (!flow->joined)
		return sl_peer_not_joined;
	switch (flow->backend.reader) {
	case sl_by_splice:
		return sl_reader_splices;
	case sl_by_waiting:
		return sl_reader_waits;
	case sl_by_ulp:
		return sl_reader_ulp;
	case sl_by_recv:
		return sl_tcp_busy;
	default:
		return flow->backend.sent ? sl_tcp_busy : sl_reader_unproven;
	}
}

static __always_inline void on_state(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	__u32 from = ctx->args[0], to = ctx->args[1];
	struct sl_end *end = bpf_sk_storage_get(&sl_ends, sk, NULL, 0);
	struct sl_endpoint *endpoint;
	struct sl_flow *flow;
	struct sock *kernel;
	__s64 unread;
	__u64 id, cookie;

	if (!end || !end->flow || end->state & SL_GONE)
		return;
	id = end->flow;
	flow = bpf_map_lookup_elem(&sl_flows, &id);
	if (!flow)
		return;

	/*
	 * The backend is about to send its FIN. If it has closed, then what it
	 * has not read is lost, and TCP would say so with a reset; but TCP does
	 * not know of redirected bytes. Leave word for the agent, which will see
	 * an end of file that is none. close(2) has taken the socket out of its
	 * sockmaps already (no sk_user_data), unless a redirect is just being
	 * delivered; shutdown(2) for writing alone leaves it there and is no loss.
	 */
	kernel = (struct sock *)bpf_skc_to_tcp_sock(sk);
	if (end->side == sl_backend && kernel && (from == TCP_ESTABLISHED || from == TCP_CLOSE_WAIT) &&
	    kernel->sk_shutdown == SHUTDOWN_MASK && (from == TCP_ESTABLISHED || !kernel->sk_user_data)) {
		unread = flow->agent.spliced - flow->backend.spliced_read;
		if (unread > 0)
			flow->lost = unread;
	}
	if (to != TCP_CLOSE)
		return;

	if (end->side == sl_agent) {
		end->sent = flow->agent.sent;
		end->received = flow->agent.received;
		end->spliced_out = flow->agent.spliced;
		end->spliced_in = flow->backend.spliced;
		end->lost = flow->lost;
		decide(flow, reason_of(flow));
		end->reason = flow->reason;
		if (!bpf_map_delete_elem(&sl_announced, &end->ident)) {
			endpoint = endpoint_of(&end->ident);
			if (endpoint)
				__sync_fetch_and_add(&endpoint->unjoined, 1);
			release_flow(flow, id);
		}
	} else {
		cookie = bpf_get_socket_cookie(ctx);
		bpf_map_delete_elem(&sl_members, &cookie);
	}
	if (__sync_fetch_and_or(&end->state, SL_GONE) == 0 && !__sync_lock_test_and_set(&end->released, 1))
		release_flow(flow, id);
}

SEC("sockops")
int sl_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_connect(ctx, sk);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		on_active(ctx, sk);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_passive(ctx, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		on_state(ctx, sk);
		break;
	}
	return 1;
}

/*
 * The kernel is short of TCP memory. It would refuse redirected bytes with
 * ENOMEM where TCP would just wait, so let TCP have them.
 */
static __always_inline bool memory_pressure(struct sock *kernel)
{
	unsigned long *pressure = kernel->__sk_common.skc_prot->memory_pressure;
	unsigned long under = 0;

	if (pressure)
		bpf_probe_read_kernel(&under, sizeof(under), pressure);
	return under;
}

/*
 * One write of a member, under its socket's lock. SK_PASS alone means TCP;
 * after bpf_msg_redirect_hash it means the peer's receive queue. Redirect if
 *
 *   (reader) the peer reads by recvmsg(2): the backend has shown it, the agent
 *            is known to,
 *   (order)  the peer has read every byte that we ever gave to TCP: our
 *            write_seq is its copied_seq. Redirected bytes overtake whatever is
 *            in TCP. Only we add to TCP, and not now; and what sl_recv last saw
 *            of copied_seq is never ahead of the truth,
 *   (bound)  what lies redirected and unread stays under the limit, and within
 *            half of the peer's receive buffer. TCP's window does not apply to
 *            it, so beyond that, TCP's window it is. Only half, because these
 *            bytes count against the receive buffer: were it full of them, the
 *            peer would close its window and, since reading them makes TCP send
 *            no update, open it again only when asked by a probe.
 *
 * The lock is let go between the verdict and the delivery, but this write has
 * not returned then: whatever else is written meanwhile is concurrent with it.
 */
SEC("sk_msg")
int sl_msg(struct sk_msg_md *msg)
{
	struct sl_settings *cfg = config();
	struct bpf_sock *sk = msg->sk;
	struct sl_half *me, *peer;
	struct sl_byte_counts *bytes;
	__u32 zero = 0, size = msg->size;
	struct sl_flow *flow;
	struct tcp_sock *tp;
	struct sl_end *end;
	__u64 id, key;
	__s64 unread;

	if (!sk || !cfg)
		return SK_PASS;
	end = bpf_sk_storage_get(&sl_ends, sk, NULL, 0);
	if (!end || !end->flow || end->state & SL_GONE)
		return SK_PASS;
	id = end->flow;
	flow = bpf_map_lookup_elem(&sl_flows, &id);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!flow || !tp)
		return SK_PASS;
	if (end->side == sl_agent) {
		me = &flow->agent;
		peer = &flow->backend;
	} else {
		me = &flow->backend;
		peer = &flow->agent;
	}

	/* A write may have been cut short after the verdict: correct for the last one. */
	me->sent += size + (__s32)(tp->write_seq - me->next_seq);
	me->next_seq = tp->write_seq + size;

	if (peer->reader != sl_by_recv)
		return SK_PASS;
	if (tp->write_seq != peer->copied_seq)
		return SK_PASS;
	unread = me->spliced + size - peer->spliced_read;
	if (unread > peer->room || unread > cfg->limit)
		return SK_PASS;
	/* The redirect would deliver bytes after our own FIN. TCP says EPIPE. */
	if (((struct sock *)tp)->sk_shutdown & SEND_SHUTDOWN)
		return SK_PASS;
	if (memory_pressure((struct sock *)tp))
		return SK_PASS;

	/*
	 * Book first, then ask again: sl_adjust marks the reader first and then
	 * looks at the books. One of us sees the other.
	 */
	__sync_fetch_and_add(&me->spliced, size);
	if (peer->reader != sl_by_recv || cfg->stopped)
		goto tcp;
	key = end_key(id, !end->side);
	if (bpf_msg_redirect_hash(msg, &sl_socks, &key, BPF_F_INGRESS) != SK_PASS)
		goto tcp; /* the peer has closed or never joined */

	me->next_seq = tp->write_seq;
	decide(flow, sl_spliced);
	bytes = bpf_map_lookup_elem(&sl_bytes, &zero);
	if (bytes) {
		if (end->side == sl_agent)
			bytes->to_backend += size;
		else
			bytes->to_agent += size;
	}
	return SK_PASS;
tcp:
	__sync_fetch_and_sub(&me->spliced, size);
	return SK_PASS;
}

/*
 * How far the reader is in TCP's bytes. A FIN counts as one when it has been
 * consumed, that is, when it was received and nothing is left; asked in this
 * order, a FIN that comes in between does no harm.
 */
static __always_inline __u32 copied_seq(struct tcp_sock *tp)
{
	bool fin = ((struct sock *)tp)->__sk_common.skc_flags & 1UL << kernel_enum(enum sock_flags, SOCK_DONE);
	__u32 seq = tp->copied_seq;

	return fin && seq == tp->rcv_nxt ? seq - 1 : seq;
}

/* What a reader that can only be trusted with TCP is, or sl_by_recv. */
static __always_inline enum sl_reader reader_of(struct tcp_sock *tp, int flags)
{
	if (((struct inet_connection_sock *)tp)->icsk_ulp_ops)
		return sl_by_ulp;
	if ((flags & (MSG_WAITALL | MSG_DONTWAIT)) == MSG_WAITALL || ((struct sock *)tp)->sk_rcvlowat > 1)
		return sl_by_waiting;
	return sl_by_recv;
}

/*
 * Every recvmsg of the node, after it. Redirected bytes are what it returned
 * beyond the advance of copied_seq. Two threads that read one socket may come
 * here in either order: each difference may be wrong, even negative, but they
 * add up, and copied_seq as noted is at most behind.
 *
 * A reader earns the splice by reads in which the two were equal: bytes that
 * left TCP in another way (splice(2), zero copy) make a difference or no event.
 */
SEC("tp_btf/sock_recv_length")
int sl_recv(__u64 *ctx)
{
	void *sk = (void *)ctx[0];
	int ret = ctx[1], flags = ctx[2];
	struct sl_settings *cfg;
	enum sl_reader reader;
	struct sl_flow *flow;
	struct tcp_sock *tp;
	struct sl_half *me;
	struct sl_end *end;
	__u32 seq;
	__s32 tcp;

	if (ret <= 0 || flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE))
		return 0;
	end = bpf_sk_storage_get(&sl_ends, sk, NULL, 0);
	if (!end || !end->flow)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	cfg = config();
	if (!tp || !cfg)
		return 0;
	flow = enter_flow(end);
	if (!flow)
		return 0;
	me = end->side == sl_agent ? &flow->agent : &flow->backend;

	seq = copied_seq(tp);
	tcp = seq - __sync_lock_test_and_set(&me->copied_seq, seq);
	__sync_fetch_and_add(&me->received, ret);
	if (tcp != ret)
		__sync_fetch_and_add(&me->spliced_read, ret - tcp);

	me->room = room(tp);
	reader = reader_of(tp, flags);
	if (me->reader <= sl_by_recv && reader != sl_by_recv) {
		me->reader = reader;
	} else if (me->reader == sl_unproven) {
		me->exact_reads = tcp == ret ? me->exact_reads + 1 : 0;
		if (me->exact_reads >= cfg->earn)
			me->reader = sl_by_recv;
	}
	leave_flow(end);
	return 0;
}

/* Whether this thread is inside splice(2). */
static __always_inline bool in_splice(const struct sl_settings *cfg)
{
	struct pt_regs *regs = bpf_task_pt_regs(bpf_get_current_task_btf());
	struct pt_regs___x86 *x86 = (void *)regs;
	struct pt_regs___arm64 *arm64 = (void *)regs;
	__u32 number;

	if (field_exists(x86->orig_ax))
		number = x86->orig_ax;
	else if (field_exists(arm64->syscallno))
		number = arm64->syscallno;
	else
		return false;
	return number == cfg->sys_splice || (cfg->sys_splice_compat && number == cfg->sys_splice_compat);
}

/*
 * Somebody consumes TCP bytes of a socket, or has just found that there are
 * none: recvmsg(2) does, splice(2) does, zero-copy receive does. (Only here
 * does the kernel show splice(2) on a socket; the tracepoint of the system call
 * would make every system call of the node slower.)
 *
 * A backend that splices: nothing is redirected to it from now on, and its
 * endpoint is remembered. And whoever passes here while redirected bytes lie
 * unread does not see them, for recvmsg(2) would have taken them first; tell
 * the agent, which looks again in a while and resets the connection if they
 * still lie there. A reader that waits for ever would be worse.
 */
SEC("tp_btf/tcp_rcv_space_adjust")
int sl_adjust(__u64 *ctx)
{
	struct sl_blind blind = {};
	struct sl_endpoint *endpoint;
	struct sl_settings *cfg;
	struct sl_flow *flow;
	struct sl_end *end;

	end = bpf_sk_storage_get(&sl_ends, (void *)ctx[0], NULL, 0);
	if (!end || !end->flow || end->side != sl_backend)
		return 0;
	cfg = config();
	if (!cfg)
		return 0;
	flow = enter_flow(end);
	if (!flow)
		return 0;
	if (in_splice(cfg)) {
		blind.how = sl_by_splice;
		if (__sync_lock_test_and_set(&flow->backend.reader, sl_by_splice) != sl_by_splice) {
			endpoint = endpoint_of(&end->ident);
			if (endpoint)
				endpoint->reader = sl_by_splice;
		}
	}
	blind.flow = end->flow;
	blind.spliced_read = flow->backend.spliced_read;
	if ((__s64)(flow->agent.spliced - blind.spliced_read) > 0 && flow->noticed != blind.spliced_read + 1) {
		flow->noticed = blind.spliced_read + 1;
		bpf_ringbuf_output(&sl_events, &blind, sizeof(blind), 0);
	}
	leave_flow(end);
	return 0;
}

static __always_inline struct sock *socket_of(unsigned int fd)
{
	struct fdtable *table = bpf_get_current_task_btf()->files->fdt;
	struct socket *socket;
	struct inode *inode;
	struct file *file;
	__u16 mode = 0;
	struct sock *sk;

	if (fd >= table->max_fds || bpf_probe_read_kernel(&file, sizeof(file), table->fd + fd) || !file ||
	    read_field(inode, file, f_inode) || read_field(mode, inode, i_mode) || (mode & S_IFMT) != S_IFSOCK ||
	    read_field(socket, file, private_data) || read_field(sk, socket, sk))
		return NULL;
	return sk;
}

/*
 * Attached only where the self-test has found FIONREAD to leave out bytes of
 * sockmap members, because this one does make every system call of the node
 * slower. Programs that ask FIONREAD how much there is, and believe it, hang
 * when bytes are left out. So an endpoint that asks gets no more members; and a
 * connection that was just told too little is reset.
 */
SEC("tp_btf/sys_enter")
int sl_ioctl(__u64 *ctx)
{
	struct pt_regs___x86 *x86 = (void *)ctx[0];
	struct pt_regs___arm64 *arm64 = (void *)ctx[0];
	struct sl_settings *cfg = config();
	struct sl_blind blind = { .how = sl_by_fionread };
	struct sl_endpoint *endpoint;
	struct sl_member *member;
	__u32 copied, next;
	struct sl_flow *flow;
	unsigned long flags;
	struct sock *sk;
	__u64 fd, command, cookie;
	bool fin;

	if (!cfg || ctx[1] != cfg->sys_ioctl)
		return 0;
	if (field_exists(x86->orig_ax)) {
		fd = x86->di;
		command = x86->si;
	} else if (field_exists(arm64->syscallno)) {
		fd = arm64->regs[0];
		command = arm64->regs[1];
	} else {
		return 0;
	}
	if (command != FIONREAD)
		return 0;
	sk = socket_of(fd);
	if (!sk || read_field(cookie, sk, __sk_common.skc_cookie.counter))
		return 0;
	member = bpf_map_lookup_elem(&sl_members, &cookie);
	if (!member)
		return 0;
	endpoint = bpf_map_lookup_elem(&sl_endpoints, &member->endpoint);
	if (endpoint)
		endpoint->reader = sl_by_fionread;

	/* Still there after reading it: so what was read was this socket's. */
	blind.flow = member->flow;
	if (bpf_map_lookup_elem(&sl_members, &cookie) != member)
		return 0;
	flow = bpf_map_lookup_elem(&sl_flows, &blind.flow);
	if (!flow)
		return 0;
	blind.spliced_read = flow->backend.spliced_read;
	if (read_field(flags, sk, __sk_common.skc_flags) || read_field(copied, (struct tcp_sock *)sk, copied_seq) ||
	    read_field(next, (struct tcp_sock *)sk, rcv_nxt))
		return 0;
	fin = flags & 1UL << kernel_enum(enum sock_flags, SOCK_DONE);
	if ((cfg->fionread & sl_omits_tcp && (__s32)(next - fin - copied) > 0) ||
	    (cfg->fionread & sl_omits_spliced && (__s64)(flow->agent.spliced - blind.spliced_read) > 0))
		bpf_ringbuf_output(&sl_events, &blind, sizeof(blind), 0);
	return 0;
}

/* Run once by the agent: its process id in the kernel's first namespace. */
SEC("raw_tp")
int sl_whoami(void *ctx)
{
	return bpf_get_current_pid_tgid() >> 32;
}
