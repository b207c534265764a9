/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What splice.c needs to know of the kernel, and no more: the contexts that
 * are ABI, the helpers by their numbers, and of the kernel's own structures
 * only the fields that are read. The latter are relocated when the object is
 * loaded (preserve_access_index), so neither their order nor their offsets
 * mean anything here.
 */
#ifndef SL_KERNEL_H
#define SL_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

/* Map types and flags (linux/bpf.h). */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_SOCKHASH = 18,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
};
enum {
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
	BPF_F_INGRESS = 1,
	BPF_SK_STORAGE_GET_F_CREATE = 1,
};
enum { SK_DROP, SK_PASS };

/* sock_ops callbacks (linux/bpf.h). */
enum {
	BPF_SOCK_OPS_TCP_CONNECT_CB = 3,
	BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB = 4,
	BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB = 5,
	BPF_SOCK_OPS_STATE_CB = 10,
	BPF_SOCK_OPS_STATE_CB_FLAG = 1 << 2,
};

enum { AF_INET = 2 };
enum { FIONREAD = 0x541b, S_IFMT = 0170000, S_IFSOCK = 0140000 };
enum { TCP_ESTABLISHED = 1, TCP_CLOSE = 7, TCP_CLOSE_WAIT = 8 };
enum { RCV_SHUTDOWN = 1, SEND_SHUTDOWN = 2, SHUTDOWN_MASK = 3 };
enum {
	MSG_OOB = 0x1,
	MSG_PEEK = 0x2,
	MSG_TRUNC = 0x20,
	MSG_DONTWAIT = 0x40,
	MSG_WAITALL = 0x100,
	MSG_ERRQUEUE = 0x2000,
};

/* Program contexts: ABI, so the layout is exact; the tails are left out. */
struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
};

struct bpf_sock_ops {
	__u32 op;
	__u32 args[4];
	__u32 family;
	__u32 remote_ip4; /* network byte order */
	__u32 local_ip4; /* network byte order */
	__u32 remote_ip6[4]; /* network byte order */
	__u32 local_ip6[4]; /* network byte order */
	__u32 remote_port; /* network byte order, in the upper half */
	__u32 local_port; /* host byte order */
	__u32 is_fullsock;
	__u32 snd_cwnd;
	__u32 srtt_us;
	__u32 bpf_sock_ops_cb_flags;
	__u32 state;
	__u32 rtt_min;
	__u32 snd_ssthresh;
	__u32 rcv_nxt; /* host byte order */
	__u32 snd_nxt; /* host byte order */
	__u32 snd_una;
	__u32 mss_cache;
	__u32 ecn_flags;
	__u32 rate_delivered;
	__u32 rate_interval_us;
	__u32 packets_out;
	__u32 retrans_out;
	__u32 total_retrans;
	__u32 segs_in;
	__u32 data_segs_in;
	__u32 segs_out;
	__u32 data_segs_out;
	__u32 lost_out;
	__u32 sacked_out;
	__u32 sk_txhash;
	__u64 bytes_received;
	__u64 bytes_acked;
	union {
		struct bpf_sock *sk;
		__u64 : 64;
	} __attribute__((aligned(8)));
};

struct sk_msg_md {
	union {
		void *data;
		__u64 : 64;
	} __attribute__((aligned(8)));
	union {
		void *data_end;
		__u64 : 64;
	} __attribute__((aligned(8)));
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 size;
	union {
		struct bpf_sock *sk;
		__u64 : 64;
	} __attribute__((aligned(8)));
};

/* The kernel's own structures: only what is read, relocated at load. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct proto {
	unsigned long *memory_pressure;
};

typedef struct {
	__s64 counter;
} atomic64_t;

struct sock_common {
	struct proto *skc_prot;
	unsigned long skc_flags;
	atomic64_t skc_cookie; /* 0 until somebody asks for it */
};

struct sock {
	struct sock_common __sk_common;
	int sk_rcvlowat;
	int sk_peek_off;
	int sk_rcvbuf;
	__u8 sk_shutdown;
	void *sk_user_data;
};

struct inet_connection_sock {
	const void *icsk_ulp_ops;
};

struct tcp_sock {
	__u32 copied_seq; /* host byte order, as all sequence numbers here */
	__u32 rcv_nxt;
	__u32 write_seq;
	bool is_mptcp;
};

struct inode {
	__u16 i_mode;
};

struct file {
	struct inode *f_inode;
	void *private_data; /* of a socket: struct socket */
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct socket {
	struct sock *sk;
};

struct task_struct {
	int tgid;
	struct files_struct *files;
};

struct pt_regs {
};

/* Where a system call's number and arguments are, per architecture. */
struct pt_regs___x86 {
	unsigned long orig_ax;
	unsigned long di;
	unsigned long si;
};
struct pt_regs___arm64 {
	__u64 regs[31];
	int syscallno;
};

enum sock_flags { SOCK_DONE = 1, SOCK_ZEROCOPY = 18 };

#pragma clang attribute pop

#define field_exists(field) __builtin_preserve_field_info(field, 2)
#define kernel_enum(type, value) __builtin_preserve_enum_value(*(type *)value, 1)

/* Helpers, by their numbers in linux/bpf.h. */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static __u64 (*bpf_get_socket_cookie)(void *ctx) = (void *)46;
static long (*bpf_sock_ops_cb_flags_set)(struct bpf_sock_ops *ctx, int flags) = (void *)59;
static long (*bpf_sock_hash_update)(struct bpf_sock_ops *ctx, void *map, void *key, __u64 flags) = (void *)70;
static long (*bpf_msg_redirect_hash)(struct sk_msg_md *msg, void *map, void *key, __u64 flags) = (void *)71;
static void *(*bpf_sk_storage_get)(void *map, void *sk, void *value, __u64 flags) = (void *)107;
static long (*bpf_probe_read_kernel)(void *dst, __u32 size, const void *src) = (void *)113;
static long (*bpf_ringbuf_output)(void *ringbuf, void *data, __u64 size, __u64 flags) = (void *)130;
static struct tcp_sock *(*bpf_skc_to_tcp_sock)(void *sk) = (void *)137;
static struct task_struct *(*bpf_get_current_task_btf)(void) = (void *)158;
static struct pt_regs *(*bpf_task_pt_regs)(struct task_struct *task) = (void *)175;

/* Reads from->field behind a pointer that the verifier does not follow. */
#define read_field(into, from, field) \
	bpf_probe_read_kernel(&(into), sizeof(into), __builtin_preserve_access_index(&(from)->field))

#define bpf_htonl(x) __builtin_bswap32(x)

/* What the tracepoint syscalls:sys_enter_ioctl hands over; the format is ABI. */
struct sys_enter_ioctl {
	__u64 common;
	__u64 nr; /* a 32-bit number, padded */
	__u64 fd;
	__u64 cmd;
	__u64 arg;
};

#endif
