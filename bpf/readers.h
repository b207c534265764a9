/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How the ends read: what sl_msg decides by, and who would be cheated.
 */
#ifndef SL_READERS_H
#define SL_READERS_H

#include "maps.h"

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
	if (flags & MSG_TRUNC || ((struct sock *)tp)->sk_peek_off >= 0)
		return sl_by_peeking;
	if ((flags & (MSG_WAITALL | MSG_DONTWAIT)) == MSG_WAITALL || ((struct sock *)tp)->sk_rcvlowat > 1)
		return sl_by_waiting;
	return sl_by_recv;
}

/*
 * Notes how far the reader is and returns by how much that is news. Threads that
 * read one socket may come here in either order, so the greatest counts. Who loses
 * the race to note it tries again; that it is lost so many times in a row takes
 * as many processors that are all here for this socket.
 */
static __always_inline __u32 note_copied(struct sl_half *me, __u32 seq)
{
	__u64 seen = me->copied_seq, was;

	for (int i = 0; i < 16; i++) {
		__s32 news = seq - (__u32)seen;

		if (news <= 0)
			return 0;
		was = __sync_val_compare_and_swap(&me->copied_seq, seen, seen + news);
		if (was == seen)
			return news;
		seen = was;
	}
	return 0;
}

/* What was seen of one connection is of its endpoint, unless there is worse. */
static __always_inline void remember(struct sl_end *end, enum sl_reader reader)
{
	struct sl_endpoint *endpoint = endpoint_of(&end->ident);

	if (endpoint && (endpoint->reader == sl_unproven || reader == sl_by_blocking) && endpoint->reader != sl_by_fionread)
		endpoint->reader = reader;
}

/*
 * How a backend reads, by the flags of one call, which may have peeked or failed.
 *
 * A blocking socket is the first thing to look for: in a sockmap, recvmsg(2) waits
 * once and returns EAGAIN for whatever has woken it and is no byte, like a signal,
 * SIGCONT, or room in the buffer that another thread waits to write to. Being a
 * member is enough for that, so the endpoint gets no more of them.
 *
 * One that turns to a way that redirected bytes do not honor, while some are there,
 * may see them twice (SO_PEEK_OFF) or not get rid of them (MSG_TRUNC): EFAULT.
 */
static __always_inline enum sl_reader note_reader(struct sl_end *end, struct sl_flow *flow, struct tcp_sock *tp,
						  int ret, int flags)
{
	struct sl_half *me = &flow->backend;
	enum sl_reader reader;
	__u64 received;

	if (!(flags & MSG_DONTWAIT) && !me->blocking) {
		me->blocking = 1;
		remember(end, sl_by_blocking);
	}
	reader = reader_of(tp, flags);
	if (reader == sl_by_recv)
		return reader;
	if (me->reader == sl_by_recv)
		remember(end, reader);
	if (me->reader <= sl_by_recv)
		me->reader = reader;
	received = received_by(me);
	if (reader == sl_by_peeking && (ret < 0 || flags & MSG_PEEK) && unread_by(me, received, &flow->agent))
		tell(end->flow, received, sl_is_blind, reader);
	return reader;
}

/*
 * Every recvmsg of the node, after it. First where it is in TCP's bytes and then
 * how many it has got, for those who look meanwhile: see unread_by.
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
	__u32 tcp, awaited;
	__u64 received;

	if (flags & (MSG_OOB | MSG_ERRQUEUE) || (ret <= 0 && !(flags & (MSG_PEEK | MSG_TRUNC))))
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
	reader = end->side == sl_agent ? sl_by_recv : note_reader(end, flow, tp, ret, flags);
	if (ret <= 0 || flags & MSG_PEEK)
		goto out;

	tcp = note_copied(me, copied_seq(tp));
	received = __sync_fetch_and_add(&me->received, ret) + ret;
	awaited = flow->awaited;
	if (end->side == sl_agent)
		me->room = room(tp);
	else if (awaited && unread_by(me, received, &flow->agent) < awaited &&
		 __sync_val_compare_and_swap(&flow->awaited, awaited, 0) == awaited)
		tell(end->flow, received, sl_has_read, sl_by_recv);

	if (reader == sl_by_recv && me->reader == sl_unproven) {
		me->exact_reads = tcp == ret ? me->exact_reads + 1 : 0;
		/* Not over what sl_adjust may have found just now. */
		if (me->exact_reads >= cfg->earn)
			__sync_val_compare_and_swap(&me->reader, sl_unproven, sl_by_recv);
	}
out:
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
 * A backend that splices: its endpoint is remembered, and sl_msg redirects nothing
 * to it any more once it has read what was. (That is for the writer to find: one
 * that is about to redirect has perhaps not booked it yet.) And whoever passes here while
 * redirected bytes lie unread does not see them, for recvmsg(2) would have taken
 * them first, and TCP has none before they are read; tell the agent, which looks
 * again in a while and resets the connection if they still lie there. A reader
 * that waits for ever would be worse. One that merely stalls does not come here.
 */
SEC("tp_btf/tcp_rcv_space_adjust")
int sl_adjust(__u64 *ctx)
{
	enum sl_reader how = sl_unproven;
	struct sl_settings *cfg;
	struct sl_flow *flow;
	struct sl_end *end;
	__u64 received;

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
		how = sl_by_splice;
		if (__sync_lock_test_and_set(&flow->backend.reader, sl_by_splice) != sl_by_splice)
			remember(end, sl_by_splice);
	}
	received = received_by(&flow->backend);
	if (!flow->over && unread_by(&flow->backend, received, &flow->agent) && flow->noticed != received + 1 &&
	    tell(end->flow, received, sl_is_blind, how))
		flow->noticed = received + 1;
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
 * Programs that ask FIONREAD how much there is, and believe it, hang when bytes
 * are left out. So an endpoint that asks gets no more members; and a connection
 * that was just told too little is reset.
 */
static __always_inline int on_ioctl(const struct sl_settings *cfg, __u64 fd, __u64 command)
{
	struct sl_endpoint *endpoint;
	struct sl_member *member;
	__u32 copied, next;
	struct sl_flow *flow;
	unsigned long flags;
	__u64 cookie, id, received;
	struct sock *sk;
	bool fin;

	if (!cfg || command != FIONREAD)
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
	id = member->flow;
	if (bpf_map_lookup_elem(&sl_members, &cookie) != member)
		return 0;
	flow = bpf_map_lookup_elem(&sl_flows, &id);
	if (!flow)
		return 0;
	received = flow->backend.received;
	if (read_field(flags, sk, __sk_common.skc_flags) || read_field(copied, (struct tcp_sock *)sk, copied_seq) ||
	    read_field(next, (struct tcp_sock *)sk, rcv_nxt))
		return 0;
	fin = flags & 1UL << kernel_enum(enum sock_flags, SOCK_DONE);
	if ((cfg->fionread & sl_omits_tcp && (__s32)(next - fin - copied) > 0) ||
	    (cfg->fionread & sl_omits_spliced && unread_by(&flow->backend, received, &flow->agent)))
		tell(id, received, sl_is_blind, sl_by_fionread);
	return 0;
}

/*
 * Attached only where the self-test has found FIONREAD to leave out bytes of
 * sockmap members, because a tracepoint of any system call makes every system
 * call of the node slower: by 0.04 us for this one.
 */
SEC("tracepoint/syscalls/sys_enter_ioctl")
int sl_ioctl(struct sys_enter_ioctl *ctx)
{
	return on_ioctl(config(), ctx->fd, ctx->cmd);
}

/* The same where tracefs is not mounted. It runs for every system call: 0.14 us. */
SEC("tp_btf/sys_enter")
int sl_sys_enter(__u64 *ctx)
{
	struct pt_regs___x86 *x86 = (void *)ctx[0];
	struct pt_regs___arm64 *arm64 = (void *)ctx[0];
	struct sl_settings *cfg = config();

	if (!cfg || ctx[1] != cfg->sys_ioctl)
		return 0;
	if (field_exists(x86->orig_ax))
		return on_ioctl(cfg, x86->di, x86->si);
	if (field_exists(arm64->syscallno))
		return on_ioctl(cfg, arm64->regs[0], arm64->regs[1]);
	return 0;
}

#endif
