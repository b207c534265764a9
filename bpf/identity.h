/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which two sockets are the ends of one connection, and when they cease to be.
 */
#ifndef SL_IDENTITY_H
#define SL_IDENTITY_H

#include "maps.h"

#define PEER_ELSEWHERE 16 /* so many connections in a row whose peer has not shown up */
#define TRY_AGAIN 64 /* then one in so many is still tried */

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

/* How many redirected bytes the agent's receive buffer bears: see sl_msg. */
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
	if (endpoint->policy == sl_auto && endpoint->reader == sl_by_blocking)
		return sl_reader_blocks;
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
	flow->id = id;
	flow->agent_port = ident->agent_port;
	flow->agent.copied_seq = flow->agent.first_seq = ident->backend_seq;
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
	flow->ends = 2;
	end->flow = id;
	if (bpf_map_update_elem(&sl_announced, ident, &id, BPF_NOEXIST)) {
		end->flow = 0;
		flow->ends = 0;
		bpf_map_delete_elem(&sl_flows, &id);
		return sl_map_full;
	}
	/* Until it shows up, which on this machine is when our ACK leaves. */
	__sync_fetch_and_add(&endpoint->unjoined, 1);
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
	flow->backend.copied_seq = flow->backend.first_seq = ident->agent_seq;
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
	case sl_by_peeking:
		return sl_reader_peeks;
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
	struct sl_flow *flow;
	struct sock *kernel;
	__u64 id, cookie, unread;

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
	 * delivered; shutdown(2) for writing alone leaves it there and is no loss. One
	 * that has closed after that sends nothing any more, not even a reset, and its
	 * socket ends here: the agent's FIN waits for what is unread.
	 */
	kernel = (struct sock *)bpf_skc_to_tcp_sock(sk);
	if (end->side == sl_backend && kernel &&
	    (to == TCP_CLOSE ||
	     ((from == TCP_ESTABLISHED || from == TCP_CLOSE_WAIT) && kernel->sk_shutdown == SHUTDOWN_MASK &&
	      (from == TCP_ESTABLISHED || !kernel->sk_user_data)))) {
		unread = unread_by(&flow->backend, received_by(&flow->backend), &flow->agent);
		if (unread && !flow->over)
			flow->lost = unread;
	}
	/* Nothing more will be read: whoever waits for that need not any longer. */
	if ((to == TCP_CLOSE || flow->lost) && __sync_lock_test_and_set(&flow->awaited, 0))
		tell(id, 0, sl_has_read, sl_unproven);
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
		if (!bpf_map_delete_elem(&sl_announced, &end->ident))
			release_flow(flow, id);
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

#endif
