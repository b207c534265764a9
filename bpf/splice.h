/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The data that the kernel half keeps: what people see in `bpftool map dump`
 * and what Go sees in the generated bindings. Everything is in host byte order
 * unless a comment says otherwise; addresses are 16 bytes in network byte
 * order, an IPv4 address as ::ffff:a.b.c.d, so that the two ends of a
 * connection into a dual-stack listener agree about it.
 */
#ifndef SL_SPLICE_H
#define SL_SPLICE_H

#include "kernel.h"

/*
 * What became of a connection. One list makes the enum, the counters and the
 * labels of the metric, so that they cannot disagree.
 *
 * spliced           at least one byte went past TCP
 * endpoint_unknown  the agent has no such endpoint: not a backend leg
 * policy_off        the route's policy says no
 * peer_elsewhere    the last connections to this endpoint found no peer on this
 *                   node: it lives on another one, or behind NAT
 * peer_not_joined   the peer's end did not show up in this kernel: another
 *                   node, NAT in between, or outside our cgroup
 * mptcp             one end is a Multipath TCP subflow
 * foreign_owner     another program's sockmap owns one end (EBUSY)
 * map_full          more connections than the maps hold
 * not_supported     the kernel refuses to insert this kind of socket
 * zerocopy          the peer sends with MSG_ZEROCOPY, whose completions a
 *                   sockmap member never gets
 * reader_unproven   ended before the backend had earned the splice, or written
 * reader_splices    the peer reads by splice(2), which does not see spliced bytes
 * reader_waits      the peer reads with MSG_WAITALL or SO_RCVLOWAT, which
 *                   spliced bytes do not honour
 * reader_peeks      the peer peeks from an offset on or discards what it has not
 *                   read (SO_PEEK_OFF, MSG_TRUNC), which spliced bytes do not honour
 * reader_blocks     the peer reads a blocking socket: in a sockmap recvmsg(2)
 *                   returns EAGAIN then for a signal, or another thread's write
 * reader_fionread   the peer asks FIONREAD, which on this kernel leaves bytes out
 * reader_ulp        the peer has an upper layer protocol (kernel TLS) on top
 * tcp_busy          earned, but TCP's queue was never empty at a write
 */
#define SL_OUTCOMES(X)      \
	X(spliced)          \
	X(endpoint_unknown) \
	X(policy_off)       \
	X(peer_elsewhere)   \
	X(peer_not_joined)  \
	X(mptcp)            \
	X(foreign_owner)    \
	X(map_full)         \
	X(not_supported)    \
	X(zerocopy)         \
	X(reader_unproven)  \
	X(reader_splices)   \
	X(reader_waits)     \
	X(reader_peeks)     \
	X(reader_blocks)    \
	X(reader_fionread)  \
	X(reader_ulp)       \
	X(tcp_busy)

enum sl_outcome {
	sl_undecided,
#define X(name) sl_##name,
	SL_OUTCOMES(X)
#undef X
};

/* Connections by what became of them, each counted once. */
struct sl_counts {
#define X(name) __u64 name;
	SL_OUTCOMES(X)
#undef X
};

/* What is known of how one end reads. Only sl_by_recv is ever redirected to. */
enum sl_reader {
	sl_unproven,
	sl_by_recv, /* earned: every byte so far came out of recvmsg(2) */
	sl_by_splice,
	sl_by_waiting, /* MSG_WAITALL or SO_RCVLOWAT */
	sl_by_peeking, /* SO_PEEK_OFF or MSG_TRUNC */
	sl_by_ulp,
	sl_by_fionread,
	sl_by_blocking, /* of endpoints only */
};

enum sl_policy {
	sl_auto, /* splice, and heed what was learned of the endpoint */
	sl_on, /* splice, and try every connection afresh */
	sl_off,
};

struct sl_settings {
	__u32 mark; /* SO_MARK of the agent's backend legs */
	__u32 owner; /* process id of the agent as the kernel's first namespace counts */
	__u32 limit; /* bytes redirected and unread, a direction, at most */
	__u32 credit; /* of these, what the agent allows itself towards a backend */
	__u32 earn; /* reads by recvmsg until a reader has earned the splice */
	__u32 stopped; /* 1: no new connection joins, no more bytes are redirected */
	__u32 sys_splice; /* number of splice(2) on this machine */
	__u32 sys_splice_compat; /* and for its 32-bit programs; 0: none */
	__u32 sys_ioctl; /* number of ioctl(2) */
	__u32 fionread; /* what FIONREAD leaves out on this kernel: enum sl_omits; 0: nothing */
};

/*
 * Kernels from commit 929e30f93125 (6.6.128, 6.12.75, 6.18.14) to its repair,
 * 04af4efde58a, show a sockmap member's redirected bytes in FIONREAD and none of
 * TCP's; older ones the other way round.
 */
enum sl_omits { sl_omits_tcp = 1, sl_omits_spliced = 2 };

struct sl_endpoint_key {
	__u8 ip[16]; /* network byte order */
	__u16 port;
	__u16 zero;
};

struct sl_endpoint {
	char endpoint[48]; /* address:port as people write it */
	char route[64];
	enum sl_policy policy;
	enum sl_reader reader; /* what was seen of any connection and is more than its own concern */
	__u32 unjoined; /* connections in a row whose peer has not shown up */
	__u32 skipped; /* connections not tried because of that */
};

/*
 * A connection as both of its ends see it: the addresses, and both initial
 * sequence numbers. Those are 64 bits that the two kernels' sockets have
 * chosen at random and that no third socket knows, in any namespace; so nobody
 * can prepare or imitate an identity, not even with the same addresses.
 */
struct sl_ident {
	__u32 agent_ip[4]; /* network byte order */
	__u32 backend_ip[4]; /* network byte order */
	__u16 agent_port;
	__u16 backend_port;
	__u32 agent_seq; /* the agent's first byte */
	__u32 backend_seq; /* the backend's first byte */
};

/*
 * One end's share of a flow. Only this end writes it, the other one reads it.
 * Redirected bytes that were read are what was received and did not come from
 * TCP: see unread_by.
 */
struct sl_half {
	__u64 sent; /* bytes given to sendmsg(2); ahead of it by a write that did not fit */
	__u64 spliced; /* of these: redirected past TCP */
	__u64 received; /* bytes that recvmsg(2) returned */
	__u64 copied_seq; /* the greatest copied_seq seen of the socket, in 64 bits */
	__u32 first_seq; /* the copied_seq that it began with */
	__u32 next_seq; /* write_seq if the last write fitted */
	__u32 exact_reads;
	__u32 blocking; /* 1: has read without O_NONBLOCK and MSG_DONTWAIT */
	__u32 room; /* redirected bytes that the agent's receive buffer bears */
	enum sl_reader reader;
};

/* One connection of the agent to an endpoint. Key: the cookie of the agent's socket. */
struct sl_flow {
	__u64 id; /* its key */
	struct sl_half agent;
	/* Far apart, so that two processors do not fight for a cache line. */
	char endpoint[48];
	char route[64];
	__u16 agent_port;
	__u16 joined; /* 1: the backend's end is here too */
	__u32 counted; /* 1: has its outcome */
	__u32 ends; /* who still uses this entry */
	enum sl_outcome reason;
	__u32 lost; /* redirected bytes that the backend closed on without reading */
	__u32 over; /* 1: the backend has read what was redirected and gets the rest by TCP */
	__u32 awaited; /* tell the agent when fewer bytes than this are unread; 0: do not */
	__u64 noticed; /* backend.received + 1 when a blind reader was last reported */
	struct sl_half backend;
};

enum sl_side { sl_agent, sl_backend };

/* What a socket knows of itself. In its sk_storage, so it lives as long as it does. */
struct sl_end {
	__u64 flow; /* 0: not in a flow */
	__u32 state; /* SL_GONE, and how many readers are at work in the flow */
	__u32 released; /* 1: no longer uses the flow */
	enum sl_side side;
	enum sl_outcome reason;
	struct sl_ident ident;
	/* The flow's last figures, for who asks after the connection has ended. */
	__u64 sent;
	__u64 received;
	__u64 spliced_out;
	__u64 spliced_in;
	__u32 lost;
};

/* Redirected bytes since the start; up is towards the backend. */
struct sl_byte_counts {
	__u64 up;
	__u64 down;
};

/* A backend's socket for who only knows its cookie. */
struct sl_member {
	__u64 flow;
	struct sl_endpoint_key endpoint;
};

enum sl_sign {
	sl_is_blind, /* a backend does not see bytes that are there for it */
	sl_has_read, /* a backend has read as many as were awaited, or never will */
};

/* What the agent is told of a flow. */
struct sl_event {
	__u64 flow;
	__u64 received; /* the backend's, when it was found blind */
	enum sl_sign sign;
	enum sl_reader how; /* a blind one reads; sl_unproven: not known */
};

#endif
