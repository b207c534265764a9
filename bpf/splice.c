//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The kernel half of Sluice: the decrypted bytes of a connection go straight
 * from the agent's sendmsg(2) into the backend's recvmsg(2), and back, without
 * a trip through TCP. The programs:
 *
 *   sl_sockops  (identity.h) says which sockets are the ends of one connection
 *   sl_msg      (here) decides for each write: redirect it, or leave it to TCP
 *   sl_recv     (readers.h) sees each read: keeps the books that sl_msg decides by
 *   sl_adjust   (readers.h) sees who consumes TCP bytes in another way
 *   sl_ioctl    (readers.h) sees who asks FIONREAD, on kernels that need it
 *
 * The rule above all: whenever anything is unknown, unusual or full, the bytes
 * go through TCP, which was there before and carries the connection as if this
 * file did not exist. Every verdict below is argued from that.
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

/* Run once by the agent: its process id in the kernel's first namespace. */
SEC("raw_tp")
int sl_whoami(void *ctx)
{
	return bpf_get_current_pid_tgid() >> 32;
}
