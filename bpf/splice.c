//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The kernel half of Sluice: the decrypted bytes of a connection go straight
 * from the agent's sendmsg(2) into the backend's recvmsg(2), and back, without
 * a trip through TCP. The programs:
 *
 *   sl_sockops    (identity.h) says which sockets are the ends of one connection
 *   sl_msg        (here) decides for each write: redirect it, or leave it to TCP
 *   sl_may_write  (here) tells the agent when to wait before it writes
 *   sl_recv       (readers.h) sees each read: keeps the books that sl_msg decides by
 *   sl_adjust     (readers.h) sees who consumes TCP bytes in another way
 *   sl_ioctl      (readers.h) sees who asks FIONREAD, on kernels that need it
 *
 * The rule above all: whenever anything is unknown, unusual or full, the bytes
 * go through TCP, which was there before and carries the connection as if this
 * file did not exist. Every verdict below is argued from that. It has one
 * exception, at sl_msg: never before redirected bytes that somebody may not see.
 *
 * Lifetime. Entries of sl_socks are never deleted or overwritten here: deleting
 * one throws away the redirected bytes that its owner has not read yet. The
 * socket's own close removes it.
 */
#include "identity.h"
#include "maps.h"
#include "readers.h"

char _license[] SEC("license") = "Dual BSD/GPL";

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
 *   (bound)  what lies redirected and unread stays under the limit.
 *
 * What happens otherwise depends on who writes. The agent reads by recvmsg(2),
 * which takes redirected bytes first, so what a backend writes beyond the bound
 * may go to TCP, whose window pushes back. That bound is half of the agent's
 * receive buffer: were it full of bytes that TCP does not know of, TCP would
 * close its window and, since reading them makes it send no update, open it
 * again only when asked by a probe.
 *
 * A backend may turn to splice(2) at any time and would then read TCP's bytes
 * and never the redirected ones before them. So while any of those are unread,
 * nothing that the agent writes goes to TCP: it is redirected, or refused. It is
 * never refused to a writer that asks sl_may_write before. (Refusing ends the
 * connection: the kernel keeps SK_DROP for every later write.)
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
	__u64 id, key, unread, bound;
	struct sl_flow *flow;
	struct tcp_sock *tp;
	struct sl_end *end;
	bool ordered;

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
		bound = cfg->limit;
	} else {
		me = &flow->backend;
		peer = &flow->agent;
		bound = peer->room < cfg->limit ? peer->room : cfg->limit;
	}

	/* A write may have been cut short after the verdict: correct for the last one. */
	me->sent += size + (__s32)(tp->write_seq - me->next_seq);
	me->next_seq = tp->write_seq + size;

	/* The redirect would deliver bytes after our own FIN. TCP says EPIPE. */
	if (((struct sock *)tp)->sk_shutdown & SEND_SHUTDOWN)
		return SK_PASS;
	/* It reads by TCP from now on, or has closed and reads nothing any more. */
	if (end->side == sl_agent && (flow->over || flow->lost))
		return SK_PASS;
	unread = unread_by(peer, received_by(peer), me);
	/* Bytes that must be redirected, because others lie there to be read first. */
	ordered = end->side == sl_agent && unread;
	if (!ordered && (peer->reader != sl_by_recv || cfg->stopped || tp->write_seq != (__u32)peer->copied_seq ||
			 memory_pressure((struct sock *)tp))) {
		/*
		 * No redirect after this, if there was one before: a backend that takes
		 * these bytes by splice(2) and then uses recvmsg(2) again would make
		 * unread_by count them for ever.
		 */
		if (end->side == sl_agent && (me->spliced || peer->reader > sl_by_recv))
			flow->over = 1;
		return SK_PASS;
	}
	if (unread + size > bound)
		return ordered ? SK_DROP : SK_PASS;

	/*
	 * Book first, then ask again: sl_adjust marks the reader first and then
	 * looks at the books. One of us sees the other.
	 */
	__sync_fetch_and_add(&me->spliced, size);
	if (!ordered && (peer->reader != sl_by_recv || cfg->stopped))
		goto tcp;
	key = end_key(id, !end->side);
	if (bpf_msg_redirect_hash(msg, &sl_socks, &key, BPF_F_INGRESS) != SK_PASS)
		goto tcp; /* the peer has closed or never joined */

	me->next_seq = tp->write_seq;
	decide(flow, sl_spliced);
	bytes = bpf_map_lookup_elem(&sl_bytes, &zero);
	if (bytes) {
		if (end->side == sl_agent)
			bytes->up += size;
		else
			bytes->down += size;
	}
	return SK_PASS;
tcp:
	__sync_fetch_and_sub(&me->spliced, size);
	if (end->side == sl_agent && !ordered && peer->reader > sl_by_recv)
		flow->over = 1;
	return SK_PASS;
}

/* What sl_may_write is asked. Only the agent's writer does, between two writes. */
struct sl_request {
	__u64 flow;
	__u64 written; /* bytes that write(2) has taken so far */
	__u64 want; /* bytes to write next; 0: none, but a FIN */
	__u64 refused; /* 1: the kernel had no memory for a redirect */
};

/*
 * Bytes that are redirected and unread. Those that the kernel had no memory for
 * stayed booked; but there cannot be more than were written and not received.
 */
static __always_inline __u64 unread_truly(struct sl_flow *flow, __u64 written)
{
	__u64 received = received_by(&flow->backend);
	__u64 unread = unread_by(&flow->backend, received, &flow->agent);
	__s64 most = written - received;

	if (most < 0)
		most = 0;
	if (unread > (__u64)most) {
		__sync_fetch_and_sub(&flow->agent.spliced, unread - most);
		unread = most;
	}
	return unread;
}

/*
 * How many bytes the agent may write to a backend before it asks again; 0: it
 * has to wait until it is told that the backend has read. Whoever cannot read
 * any more bytes past TCP, or is no peer of a flow, limits nobody here.
 */
SEC("raw_tp")
int sl_may_write(struct sl_request *request)
{
	__u64 id = request->flow, want = request->want, unread;
	struct sl_settings *cfg = config();
	struct sl_flow *flow = hold_flow(id);
	int credit = NO_LIMIT;
	bool to_tcp;

	if (!flow)
		return NO_LIMIT;
	if (!cfg || flow->over || flow->lost)
		goto out;
	if (want > cfg->credit / 2)
		want = cfg->credit / 2;
	/* A FIN, or what is not redirected any more, once everything is read. */
	to_tcp = !want || request->refused || flow->backend.reader != sl_by_recv;
	for (int i = 0; i < 2; i++) {
		if (flow->lost) {
			credit = NO_LIMIT;
			goto out;
		}
		unread = unread_truly(flow, request->written);
		credit = cfg->credit - unread;
		if (!unread && request->refused)
			flow->over = 1;
		if (!unread || (!to_tcp && unread + want <= cfg->credit)) {
			flow->awaited = 0;
			goto out;
		}
		/* Leave word, then look again: sl_recv counts first, and then looks for it. */
		__sync_lock_test_and_set(&flow->awaited, to_tcp ? 1 : cfg->credit / 4 + 1);
	}
	credit = 0;
out:
	release_flow(flow, id);
	return credit;
}

/* Run once by the agent: its process id in the kernel's first namespace. */
SEC("raw_tp")
int sl_whoami(void *ctx)
{
	return bpf_get_current_pid_tgid() >> 32;
}
